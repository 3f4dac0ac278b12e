"""The tables of `benchmarks.search`."""

from benchmarks.contenders.search import BEAM, GREEDY, NOT_MERGED, SCAN, SYMBOLS, TABULATED
from benchmarks.printing.markdown import grid, heading, number

# The aims, in ms: on an H100 in bfloat16 with T = 750, on two CPU cores in float32 with T = 250.
TARGETS = {
    ("gpu", GREEDY, 32, 1024): 8.8,
    ("gpu", TABULATED, 32, 1024): 7.2,
    ("gpu", TABULATED, 128, 1024): 9,
    ("gpu", TABULATED, 1, 1024): 5.5,
    ("gpu", TABULATED, 32, 8193): 12,
    ("gpu", BEAM, 32, 1024): 45,
    ("gpu", BEAM, 32, 8193): 75,
    ("cpu", GREEDY, 1, 1024): 14,
    ("cpu", GREEDY, 8, 1024): 50,
    ("cpu", GREEDY, 32, 1024): 130,
    ("cpu", BEAM, 1, 1024): 40,
    ("cpu", BEAM, 8, 1024): 180,
    ("cpu", BEAM, 32, 1024): 550,
}
CHUNK_TARGETS = {("gpu", 32, 25): 0.7}
ALIGN_TARGETS = {
    ("gpu", 1, 1500): (0.25, None),
    ("gpu", 32, 1500): (1.0, None),
    ("gpu", 1, 45_000): (3000, 1536),
    ("cpu", 1, 1500): (0.7, None),
}
SECTIONS = {
    "greedy": "Greedy search",
    "beam": "Beam search",
    "stream": "A chunk of a stream",
    "align": "Best paths",
}


def markdown(results: dict) -> str:
    parts = ["\n".join(heading(results))]
    for section, title in SECTIONS.items():
        if section in results:
            parts += [f"## {title}", _TABLES[section](results)]
    return "\n\n".join(parts)


def _greedy(results: dict) -> str:
    text = (
        f"From frames to labels, one call; {SCAN} and {SYMBOLS} give labels alone, the others "
        "frames and log-probabilities, too. In brackets what is aimed at; right are the "
        "utterances with exactly the string that the model was made for."
    )
    return _ways(text, results, "greedy", SCAN)


def _beam(results: dict) -> str:
    text = "One symbol a frame, the input projection tabulated; in brackets what is aimed at."
    return _ways(text, results, "beam", NOT_MERGED)


def _ways(text: str, results: dict, section: str, beside: str) -> str:
    rows = results[section]
    times = {(row["way"], row["N"], row["V"]): row["ms"] for row in rows}
    columns = "N", "T", "V", "way", "ms", f"{beside} / it", "right"
    lines = []
    for row in rows:
        target = TARGETS.get((results["platform"], row["way"], row["N"], row["V"]))
        is_aimed = target is not None and row["T"] >= 250
        other = times[beside, row["N"], row["V"]]
        lines.append(
            (
                *(row[name] for name in ("N", "T", "V", "way")),
                number(row["ms"]) + (f" ({target})" if is_aimed else ""),
                number(other / row["ms"]),
                f"{row['right']} of {row['N']}",
            )
        )
    return f"{text}\n\n" + grid(columns, lines)


def _stream(results: dict) -> str:
    columns = "N", "frames", "V", "ms", "right"
    lines = []
    for row in results["stream"]:
        target = CHUNK_TARGETS.get((results["platform"], row["N"], row["frames"]))
        aim = f" ({target})" if target is not None else ""
        right = f"{row['right']} of {row['N']}"
        lines.append((row["N"], row["frames"], row["V"], number(row["ms"]) + aim, right))
    text = "A chunk in mid-stream from the call to its labels, the input projection tabulated."
    return f"{text}\n\n" + grid(columns, lines)


def _align(results: dict) -> str:
    columns = "of", "N", "(T, U)", "ms", "temporary, MiB", "the whole's path"
    lines = []
    for row in results["align"]:
        aims = ALIGN_TARGETS.get((results["platform"], row["N"], row["T"]), (None, None))
        shown = (
            number(value) + ("" if aim is None else f" ({aim})")
            for value, aim in zip((row["ms"], row["temporary_mib"]), aims)
        )
        way = f"a joint, blocks of {row['block_frames']} frames" if row["H"] else "arcs"
        lines.append((way, row["N"], f"({row['T']}, {row['U']})", *shown, row.get("is_whole", "")))
    text = (
        "`lattice_align` of arcs, `rnnt_align_from_joint` of a joint (waited for); in brackets "
        "what is aimed at. Temporary memory is what XLA says, beside arguments and results."
    )
    return f"{text}\n\n" + grid(columns, lines)


_TABLES = {"greedy": _greedy, "beam": _beam, "stream": _stream, "align": _align}
