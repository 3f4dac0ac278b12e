"""Training, from a corpus to a run's folder: `run(settings, run_dir)`."""

import functools
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from . import corpus
from .batches import Loader
from .checkpoint import SCHEDULE, Checkpoints, History, differences, keep_settings, settings_before
from .decoding import joint_calls
from .evaluate import SHOWN, Evaluation, Recognizer, evaluate
from .files import alone_in
from .optimizer import schedule
from .programs import compile_together
from .progress import Progress
from .settings import Settings
from .step import Learner, TrainingState, bad_batches
from .text import Tokenizer

REPORTS_AN_EVALUATION = 10  # lines between two evaluations


def run(
    settings: Settings,
    run_dir: Path | str,
    *,
    corpora: tuple[corpus.Corpus, corpus.Corpus] | None = None,
    devices: Sequence[jax.Device] | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Trains, going on from the run's newest checkpoint if there is one, and searches by a beam.

    Args:
        settings: of the run. One that goes on has those that it began with, but for those that
            `checkpoint.py` names.
        run_dir: the folder of `checkpoint.py`; of several processes the same one.
        corpora: to train on, and held out; those that the settings name by default.
        devices: of all processes; all there are by default.
        quiet: print nothing.

    Returns:
        The last evaluation, by beam search with the weights of the last step.
    """
    run_dir = Path(run_dir).expanduser()
    run_dir.mkdir(parents=True, exist_ok=True)
    mesh = Mesh(np.asarray(devices or jax.devices()), ("data",))
    with ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(alone_in(run_dir))
        before, training, held_out, tokenizer = _prepared(settings, run_dir, corpora)
        load = functools.partial(
            Loader,
            tokenizer=tokenizer,
            settings=settings,
            divisor=mesh.size,
            processes=(jax.process_index(), jax.process_count()),
        )
        loader = stack.enter_context(closing(load(training, training=True)))
        held_out_loader = stack.enter_context(closing(load(held_out, training=False)))
        checkpoints = stack.enter_context(closing(Checkpoints(run_dir, settings.keep)))
        learner = Learner(settings, tokenizer.size, mesh)
        loaders = loader, held_out_loader
        return _train(learner, tokenizer, run_dir, *loaders, checkpoints, before, quiet)


def _train(
    learner: Learner,
    tokenizer: Tokenizer,
    run_dir: Path,
    loader: Loader,
    held_out_loader: Loader,
    checkpoints: Checkpoints,
    before: Settings,
    quiet: bool,
) -> Evaluation:
    settings, mesh = learner.settings, learner.everywhere.mesh
    device = mesh.devices.flat[0].device_kind  # a GPU that JAX does not find is a slow CPU
    step, state = 0, None
    if stored := checkpoints.restore(learner.like):
        step, state, loader_state = stored
        loader.set_state(loader_state)
    progress = Progress(
        History(run_dir, step),
        max(settings.evaluate_every // REPORTS_AN_EVALUATION, 1),
        quiet=quiet,
    )
    model = nnx.merge(learner.graph, learner.like.average)
    recognizer = Recognizer(settings, tokenizer, model, mesh.local_devices)

    # All steps and searches are compiled here, the one at the end, too: the more at once, the
    # sooner. What counts the joint's calls and makes the report is compiled behind the last step.
    own_part = jax.process_count()
    held_out_shapes = [(rows // own_part, samples) for rows, samples, _ in held_out_loader.shapes]
    loader.prefetch()
    steps, searches = compile_together(
        learner.lowered(loader.shapes, starts=state is None),
        recognizer.lowered(held_out_shapes, 1, settings.beam),
    )
    learner.programs |= steps
    recognizer.programs |= searches
    if state is None:
        state = learner.start()

    def evaluated(beam: int) -> Evaluation:
        recognizer.use(state.average)
        return evaluate(recognizer, held_out_loader, beam)

    progress.console.print(
        f"{_parameters(state) / 1e6:.1f} M parameters on {mesh.size} {device}, "
        f"{len(loader.shapes)} shapes of batches, {loader.padding:.1%} of their cells padding; "
        f"compiled after {progress.seconds:.0f} s" + _going_on(step, before, settings)
    )
    if loader.left_out:
        progress.console.print(
            f"{loader.left_out} utterances are longer than {settings.max_seconds:g} s and left out"
        )
    progress.begin()
    while step < settings.steps:
        for _ in range(settings.accumulate):
            begun = time.perf_counter()
            batch = next(loader)
            waited = time.perf_counter() - begun
            state, totals = learner(state, batch)
            progress.batch(totals, waited)
        step += 1
        progress.step(step, settings.steps, functools.partial(bad_batches, state))
        if step % settings.evaluate_every == 0 or step == settings.steps:
            evaluation = evaluated(beam=1)
            progress.evaluated(step, evaluation)
            checkpoints.save(step, state, loader.state(), evaluation.word_error_rate)
    progress.trained()
    last = evaluated(settings.beam)
    batch = next(iter(held_out_loader))
    audios = [row[:length] for row, length in zip(batch.audio, batch.samples_lengths) if length]
    calls = joint_calls(recognizer, audios[:SHOWN])
    progress.evaluated(step, last, beam=settings.beam, joint_calls_a_second=calls)
    return last


def _prepared(
    settings: Settings, run_dir: Path, corpora: tuple[corpus.Corpus, corpus.Corpus] | None
) -> tuple[Settings, corpus.Corpus, corpus.Corpus, Tokenizer]:
    """The run's settings so far, both corpora, the tokenizer: the first process makes them."""
    is_first = jax.process_index() == 0
    if not is_first:
        multihost_utils.sync_global_devices("prepared")
    before = settings_before(run_dir, settings)
    training, held_out = corpora or corpus.load(settings)
    path = run_dir / "tokenizer.model"
    tokenizer = Tokenizer.cached(path, training.texts, settings.vocabulary)
    keep_settings(run_dir, settings)
    if is_first and jax.process_count() > 1:
        multihost_utils.sync_global_devices("prepared")
    return before, training, held_out, tokenizer


def _going_on(step: int, before: Settings, settings: Settings) -> str:
    """Where a run goes on, and how its learning rate changes there."""
    if not step:
        return ""
    changes = differences(before, settings, SCHEDULE)
    rates = [np.asarray(schedule(s)(step)).item() for s in (before, settings)]
    return f"; going on from step {step}" + (
        f" with {changes}: learning rate {rates[0]:.2g} (now {rates[1]:.2g})" if changes else ""
    )


def _parameters(state: TrainingState) -> int:
    leaves: list[Any] = jax.tree.leaves(state.params)
    return sum(x.size for x in leaves)
