"""The recipe of `examples.speech`: where its step's time goes, how fast it trains, who waits.

Everything is measured on noise with LibriSpeech's lengths: the step by its parts under JAX's
profiler, with the joint's loss and with materialised logits; trainings on one device and on all;
and features by the device beside features by the loader's processes. Options that are not
named here are those of `python -m examples.speech train`.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.contenders.speech_ways import RECIPE, WAYS
from benchmarks.printing import speech_tables
from benchmarks.printing.results import in_mib, write
from benchmarks.problems import recordings, shapes
from benchmarks.running import processes
from examples.speech import __main__ as command_line
from examples.speech.settings import Settings

STEP, TRAINING, FEATURES = PARTS = "step", "training", "features"
PLUGINS = ("benchmarks.contenders.speech_ways",)
UTTERANCES = 10_000  # of a training's corpus
# In a CUDA graph, a kernel does not know which instruction it is of.
NO_GRAPHS = "--xla_gpu_enable_command_buffer="
# A loader has a process for each core.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
CLOSING_SECONDS = 15  # what a training that is stopped has to close


def main(arguments: Sequence[str] | None = None) -> None:
    options, settings = _parse(arguments)
    sizes = shapes.read_librispeech(options.librispeech)
    buckets = recordings.planned(sizes, settings, options.shapes)
    results: dict = {
        "settings": dataclasses.asdict(settings),
        "utterances_left_out": recordings.left_out(sizes, settings),
        "buckets": [{**bucket.shape._asdict(), "batches": bucket.batches} for bucket in buckets],
        STEP: {},
        TRAINING: [],
        FEATURES: [],
        "seconds": {},
        "errors": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        # What one process has compiled, another need not.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(folder, "compiled"))
        measured = _Measured(options, settings, results, folder, sizes)
        for part in options.parts:
            begun = time.perf_counter()
            try:
                getattr(measured, part)()
            except Exception as error:  # what the other parts find is worth as much
                traceback.print_exc()
                results["errors"][part] = f"{type(error).__name__}: {error}"
            results["seconds"][part] = time.perf_counter() - begun
            write(options.json, results)
            if part == options.parts[0]:
                print(speech_tables.heading(results))
            print(speech_tables.PARTS[part](results), flush=True)
    took = (f"{part} {seconds:.0f} s" for part, seconds in results["seconds"].items())
    print(f"\nMeasured within {', '.join(took)}.")
    for part, error in results["errors"].items():
        print(f"The part {part} ended with {error}.")


class _Measured:
    """Enters figures into the results, whatever fails on the way."""

    def __init__(
        self,
        options: argparse.Namespace,
        settings: Settings,
        results: dict,
        folder: str,
        sizes: np.ndarray,
    ) -> None:
        self._options, self._settings, self._results = options, settings, results
        self._folder, self._sizes = folder, sizes

    def step(self) -> None:
        """By parts, with the joint's loss and with materialised logits."""
        for way in WAYS:
            kinds = "analyse", "profile", *(("transfer",) if way == RECIPE else ())
            rows = self._of_buckets(way, kinds, {"XLA_FLAGS": _flags(NO_GRAPHS)})
            self._results[STEP][way] = [in_mib(row) for row in rows]
            write(self._options.json, self._results)

    def training(self) -> None:
        """On one device, on all with as much for each, and on all with as much together."""
        one = self._train(1, 1)
        devices = one.get("all_devices", 1)
        if devices > 1:
            for times in (devices, 1):
                self._train(devices, times)

    def features(self) -> None:
        """By the loader's processes, to be set beside those in the step."""
        environment = {"JAX_PLATFORMS": "cpu", **ONE_THREAD}
        self._results[FEATURES] = self._of_buckets(
            RECIPE, ("cpu_times",), environment, folder=self._recorded()
        )

    def _recorded(self) -> str:
        """The folder with its recordings."""
        if not recordings.index_of(self._folder).exists():
            recordings.write(self._folder, self._sizes, self._settings)
        return self._folder

    def _of_buckets(
        self, way: str, kinds: Sequence[str], environment: dict[str, str], **more: str
    ) -> list[dict]:
        """The figures of each bucket, from tasks of all kinds."""
        buckets = self._results["buckets"]
        tasks = [
            {
                "kind": kind,
                "arguments": {
                    "settings": self._settings.to_json(),
                    "sizes": os.path.abspath(self._options.librispeech),
                    "count": self._options.shapes,
                    "index": i,
                    **more,
                },
            }
            for i in range(len(buckets))
            for kind in kinds
        ]
        answers = self._run(way, lambda _: tasks, environment)
        rows = [dict(bucket) for bucket in buckets]
        for task, answer in zip(tasks, answers):
            rows[task["arguments"]["index"]].update(answer)
        return rows

    def _train(self, devices: int, times: int) -> dict:
        """A training on so many devices, with so many times the preset's batch."""
        settings = dataclasses.replace(
            self._settings,
            frames_per_batch=times * self._settings.frames_per_batch,
            keep=1,
            beam=1,
        )
        folder = self._recorded()  # before a process holds the device
        row: dict = {"devices": devices, "frames_per_batch": settings.frames_per_batch}

        def make_tasks(description: dict) -> processes.Tasks:
            row["all_devices"] = description["devices"]
            arguments = {
                "settings": settings.to_json(),
                "folder": folder,
                "utterances": self._options.utterances,
                "devices": devices,
                "seconds": max(1.0, self._options.seconds - CLOSING_SECONDS),
            }
            return [{"kind": "train", "arguments": arguments}]

        row |= self._run(RECIPE, make_tasks, {})[0]
        rows = self._results[TRAINING]
        rows.append(row)
        for rate in ("steps_a_second", "utterances_a_second"):
            if rate in row and rate in rows[0]:
                row[f"{rate}_over_one"] = row[rate] / rows[0][rate]
        write(self._options.json, self._results)
        return row

    def _run(
        self,
        way: str,
        make_tasks: Callable[[dict], processes.Tasks],
        environment: dict[str, str],
    ) -> processes.Tasks:
        def entered(description: dict) -> processes.Tasks:
            name = "cpu" if environment.get("JAX_PLATFORMS") == "cpu" else "device"
            self._results[name] = description["device"]
            self._results["versions"] = {
                "python": sys.version.split()[0],
                **description["versions"],
            }
            return make_tasks(description)

        _, _, answers = processes.run(
            way,
            entered,
            dtype=self._settings.dtype,
            plugins=PLUGINS,
            seconds=self._options.seconds,
            environment=environment,
        )
        return answers


def _flags(more: str) -> str:
    return f"{os.environ.get('XLA_FLAGS', '')} {more}".strip()


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speech", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--librispeech", metavar="FILE", required=True, help=".npy (utterances, 2): frames, labels"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="these alone")
    parser.add_argument(
        "--shapes", type=int, default=3, help="batches whose steps are measured (%(default)s)"
    )
    parser.add_argument("--utterances", type=int, default=UTTERANCES, help="of a training's corpus")
    parser.add_argument("--seconds", type=float, default=90, help="for each process (%(default)s)")
    parser.add_argument("--json", default="benchmark_speech.json", help="file (%(default)s)")
    options, of_example = parser.parse_known_args(arguments)
    shorter = ("--preset", "medium", "--steps", "300", "--evaluate-every", "100")
    of_example = command_line.parse_arguments(["train", *shorter, *of_example])
    settings = command_line.settings_of(of_example)
    if settings.loss != "rnnt":
        parser.error("--loss rnnt alone is measured")
    return options, settings


if __name__ == "__main__":
    main()
