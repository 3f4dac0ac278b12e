"""The floor of a time: that of moving the logits' bytes at the speed of a copy."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PASSES = {"forward": 1, "forward_backward": 3}  # over the logits' bytes: read; read twice, written


def with_floor(row: dict, copy_gb_per_second: float | None) -> dict:
    """The row with its logits' MiB and, where the copy's speed is known, floors and ratios."""
    logits_bytes = row["N"] * row["T"] * row["U"] * row["V"] * ITEM_BYTES[row["dtype"]]
    row["logits_mib"] = logits_bytes / 2**20
    if not copy_gb_per_second:
        return row
    for what, passes in PASSES.items():
        row[f"{what}_floor_ms"] = passes * logits_bytes / copy_gb_per_second / 1e6
        if f"{what}_ms" in row:
            row[f"{what}_over_floor"] = row[f"{what}_ms"] / row[f"{what}_floor_ms"]
    return row
