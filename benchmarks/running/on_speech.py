"""The train step of `examples.speech`, and a training, on the device; see `speech_ways`."""

import concurrent.futures
import contextlib
import functools
import json
import pathlib
import signal
import statistics
import time
import types
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

import jax_rnnt
from benchmarks.contenders import speech_ways
from benchmarks.measuring import scopes, timing, traces
from benchmarks.problems import recordings, shapes
from benchmarks.problems.recordings import Noise
from benchmarks.running import on_jax
from examples.speech import features, objective, train
from examples.speech.audio import resample
from examples.speech.batches import Batch
from examples.speech.programs import compile_program
from examples.speech.settings import Settings
from examples.speech.step import Learner

SCOPES = "features", "encoder", "predictor", "joint_loss", "optimizer"
STEPS = 5  # of a profile
HELD_OUT = 32  # utterances of an evaluation
CPU_CALLS = 8  # of which the CPU time is measured


class Framework(on_jax.Device):
    def __init__(self, loss: Callable, dtype: str):
        del dtype  # it is one of the settings
        objective.jax_rnnt = types.SimpleNamespace(
            rnnt_loss_from_joint=loss, lattice_cost=jax_rnnt.lattice_cost
        )

    def describe(self) -> dict:
        return {**super().describe(), "devices": jax.device_count()}

    def analyse(self, settings: str, sizes: str, count: int, index: int) -> dict:
        """A bucket's step as XLA compiles it, whether or not it fits into memory."""
        steps = _steps(settings, sizes, count)
        program, seconds = steps.programs[index].result()
        figures = {"compile_s": seconds}
        if memory := program.memory_analysis():
            figures["temporary_bytes"] = memory.temp_size_in_bytes
            figures["arguments_bytes"] = memory.argument_size_in_bytes
        return figures

    def profile(self, settings: str, sizes: str, count: int, index: int) -> dict:
        """The same step's time, and milliseconds of its parts."""
        steps = _steps(settings, sizes, count)
        program, _ = steps.programs[index].result()
        batch = Batch(*steps.buckets[index].arrays(steps.vocabulary))
        batch = jax.device_put(batch, steps.learner.split)

        def step(_: int) -> tuple:
            return program(steps.state, batch)

        def profiled() -> None:
            for i in range(STEPS - 1):
                step(i)
            jax.block_until_ready(step(STEPS))

        figures: dict = {"step_ms": 1e3 * timing.measure(step, jax.block_until_ready)}
        instructions = scopes.of_program(program.as_text() or "", SCOPES)
        times = scopes.milliseconds(traces.record(profiled), instructions, SCOPES)
        for name, by_scope in times._asdict().items():
            if by_scope is not None:
                figures[f"{name}_ms"] = {scope: ms / STEPS for scope, ms in by_scope.items()}
        return figures

    def transfer(self, settings: str, sizes: str, count: int, index: int) -> dict:
        """Bytes of a batch as audio and as features, and milliseconds to bring it to the device."""
        bucket, made = _buckets(settings, sizes, count)[index], Settings.from_json(settings)
        rows, samples, _ = bucket.shape
        frames = features.frames_of(samples, made)
        figures = {}
        for name, shape in (("audio", (rows, samples)), ("features", (rows, frames, made.bands))):
            array = np.ones(shape, np.float32)
            seconds = timing.measure(lambda _, x=array: jax.device_put(x), jax.block_until_ready)
            figures |= {f"{name}_bytes": array.nbytes, f"{name}_ms": 1e3 * seconds}
        return figures

    def cpu_times(self, settings: str, sizes: str, count: int, index: int, folder: str) -> dict:
        """Milliseconds of CPU time for a batch: what a loader's process does, and might do."""
        bucket, made = _buckets(settings, sizes, count)[index], Settings.from_json(settings)
        audio, lengths, _, _ = bucket.arrays(made.vocabulary)
        real = np.flatnonzero(lengths)
        corpus = _corpus(folder, recordings.FILES, made)
        rate = round(made.sample_rate * max(made.speeds))
        extract = jax.jit(functools.partial(features.extract, settings=made))

        def load(n: int) -> None:
            resample(corpus[n].audio, rate, made.sample_rate)

        def by_jax(n: int) -> None:
            np.asarray(extract(audio[n : n + 1], lengths[n : n + 1])[0])

        def by_numpy(n: int) -> None:
            speech_ways.features(audio[n, : lengths[n]], made)

        # Recordings of a corpus are of other lengths than the batch's.
        seconds = lengths.sum() / made.sample_rate
        load_ms = _cpu_ms(load, range(CPU_CALLS)) / corpus.seconds[:CPU_CALLS].sum() * seconds
        some = real[:CPU_CALLS]
        scale = lengths.sum() / lengths[some].sum()
        return {
            "load_cpu_ms": load_ms,
            "numpy_cpu_ms": _cpu_ms(by_numpy, some) * scale,
            "jax_cpu_ms": _cpu_ms(by_jax, some) * len(real) / len(some),  # all of one length
        }

    def train(
        self, settings: str, folder: str, utterances: int, devices: int, seconds: float
    ) -> dict:
        """Rates of a training with noise, from what it writes into its history."""
        made = Settings.from_json(settings)
        run_dir = pathlib.Path(folder, f"run-{devices}-{made.frames_per_batch}")
        # The held-out utterances are one, so that they have one shape.
        held_out = Noise(folder, np.load(recordings.index_of(folder))[:1], HELD_OUT, made)
        corpora = _corpus(folder, utterances, made), held_out
        begun = time.perf_counter()
        figures: dict = {"stopped": False}
        try:
            with _alarm(seconds):
                train.run(made, run_dir, corpora=corpora, devices=jax.devices()[:devices])
        except TimeoutError:
            figures["stopped"] = True
        figures["seconds"] = time.perf_counter() - begun
        history = run_dir / "history.jsonl"
        lines = history.read_text().splitlines() if history.exists() else []
        reports = [record for record in map(json.loads, lines) if "loss" in record]
        return {**figures, **rates(reports)}


def rates(reports: list[dict]) -> dict:
    """Of all reports of a history but the first, each of as many steps."""
    if len(reports) < 2:
        return {"error": f"{len(reports)} reports came in time"}
    first, *rest = reports
    times = np.array([1 / report["steps_a_second"] for report in rest])

    def mean(name: str) -> float:
        return float((times * [report[name] for report in rest]).sum() / times.sum())

    return {
        "steps": rest[-1]["step"] - first["step"],
        "steps_a_second": float(len(times) / times.sum()),
        "median_steps_a_second": statistics.median(r["steps_a_second"] for r in rest),
        "utterances_a_second": mean("utterances_a_second"),
        "waiting": mean("waiting"),
        "first_report_s": first["seconds"],
        "last_report_s": rest[-1]["seconds"],
        "compiled": rest[-1]["compiled"],
        "compiled_after_s": rest[-1]["compiled_after"],
    }


class _Steps:
    """The buckets' steps on one device, all of which are being compiled."""

    def __init__(self, settings: Settings, buckets: list[recordings.Planned]) -> None:
        self.buckets, self.vocabulary = buckets, settings.vocabulary
        mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
        self.learner = Learner(settings, self.vocabulary, mesh)
        self.state = self.learner.start()
        pool = concurrent.futures.ThreadPoolExecutor()
        self.programs = [
            pool.submit(_compile, self.learner.lower(bucket.shape)) for bucket in buckets
        ]


def _compile(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, float]:
    begun = time.perf_counter()
    return compile_program(lowered), time.perf_counter() - begun


@functools.cache
def _buckets(settings: str, sizes: str, count: int) -> list[recordings.Planned]:
    made = Settings.from_json(settings)
    return recordings.planned(shapes.read_librispeech(sizes), made, count)


@functools.cache
def _steps(settings: str, sizes: str, count: int) -> _Steps:
    return _Steps(Settings.from_json(settings), _buckets(settings, sizes, count))


def _corpus(folder: str, count: int, settings: Settings) -> Noise:
    return Noise(folder, np.load(recordings.index_of(folder)), count, settings)


def _cpu_ms(call: Callable[[int], None], arguments) -> float:
    """Milliseconds of CPU time of a call with each argument, over all threads of this process."""
    call(arguments[0])  # compiles
    begun = time.process_time()
    for argument in arguments:
        call(argument)
    return 1e3 * (time.process_time() - begun)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises TimeoutError after so many seconds, so that what was begun is closed."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
