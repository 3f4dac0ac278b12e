"""Training, from data to the result: `run(Config(...))`."""

import dataclasses
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from . import espeak, fsdd
from .checkpoint import Checkpoints, Json, TrainingState
from .data import Batch, Dataset
from .decode import edit_distance, greedy
from .model import ModelConfig, Transducer
from .plot import Posterior, alignment_posterior
from .progress import Clock, progress_bar
from .result import CurvePoint, History, Result

TEST_BATCH = 100


@dataclass(frozen=True)
class Config:
    """Settings of a run. Those of `resumable_settings` decide what is learnt."""

    data: str = "espeak"  # or "fsdd"
    path: Path | None = None  # of the Free Spoken Digit Dataset
    cache: Path = Path("~/.cache/jax_rnnt_digits")
    training_strings: int = 3000  # to synthesise, with espeak
    test_strings: int = 300
    steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    evaluate_every: int = 100
    checkpoint: Path | None = None  # a directory; a second run goes on from what lies there
    checkpoint_every: int = 100
    seconds: float | None = None  # stop after this time, even if there are steps left
    implementation: str | None = None  # of the loss
    progress: bool = True

    def resumable_settings(self) -> Json:
        """What must be equal for a run to go on from a checkpoint."""
        settings = dataclasses.asdict(self)
        free = ("path", "cache", "evaluate_every", "checkpoint", "checkpoint_every", "seconds")
        for name in (*free, "implementation", "progress"):
            del settings[name]
        return settings


class Learner:
    """The jitted functions of a model and its optimizer."""

    def __init__(self, config: Config) -> None:
        create = nnx.jit(lambda: Transducer(config.model, rngs=nnx.Rngs(config.seed)))
        model = create()
        graph, params = nnx.split(model, nnx.Param)
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=config.learning_rate,
            warmup_steps=min(config.warmup_steps, config.steps // 2),
            decay_steps=config.steps,
        )
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(schedule, weight_decay=config.weight_decay),
        )
        self.start = TrainingState(params, optimizer.init(params))

        def mean_loss(params: nnx.State, batch: Batch) -> jax.Array:
            model = nnx.merge(graph, params)
            return model.loss(batch, implementation=config.implementation)

        @jax.jit
        def train_step(state: TrainingState, batch: Batch) -> tuple[TrainingState, jax.Array]:
            loss, gradient = jax.value_and_grad(mean_loss)(state.params, batch)
            updates, optimizer_state = optimizer.update(
                gradient, state.optimizer_state, state.params
            )
            return TrainingState(optax.apply_updates(state.params, updates), optimizer_state), loss

        @jax.jit
        def decode(params: nnx.State, batch: Batch) -> tuple[jax.Array, jax.Array]:
            room = 2 * batch.labels.shape[1]
            return greedy(nnx.merge(graph, params), batch.features, batch.frames_lengths, room)

        @jax.jit
        def logits(params: nnx.State, features: jax.Array, labels: jax.Array) -> jax.Array:
            return nnx.merge(graph, params)(features, labels)

        self.train_step = train_step
        self.decode = decode
        self.logits = logits

    def digit_error_rate(self, params: nnx.State, dataset: Dataset) -> float:
        """Edit distance over the number of digits, on all held-out strings."""
        strings = dataset.test_strings
        errors = digits = 0
        for first in range(0, len(strings), TEST_BATCH):
            here = strings[first : first + TEST_BATCH]
            filled = here + [here[0]] * (TEST_BATCH - len(here))  # one shape, one compilation
            batch = dataset.test_batch(filled)
            symbols, counts = map(np.asarray, self.decode(params, batch))
            for n in range(len(here)):
                truth = batch.labels[n, : batch.labels_lengths[n]].tolist()
                errors += edit_distance(truth, symbols[n, : counts[n]].tolist())
                digits += len(truth)
        return errors / digits

    def posterior(self, params: nnx.State, shown: Batch, step: int) -> Posterior:
        """The alignment posterior of a batch of one unpadded string."""
        logits = self.logits(params, shown.features, shown.labels)
        return alignment_posterior(logits[0], jnp.asarray(shown.labels[0]), step)


def load_dataset(config: Config) -> Dataset:
    """The data set that the settings name."""
    cache = config.cache.expanduser()
    if config.data == "espeak":
        return espeak.load(cache, config.training_strings, config.test_strings)
    if config.data == "fsdd":
        if config.path is None:
            raise ValueError("The data set fsdd needs the path of its directory or zip.")
        return fsdd.load(config.path.expanduser(), cache)
    raise ValueError(f"There is no data set {config.data!r}: choose espeak or fsdd.")


def run(config: Config) -> Result:
    """Trains, going on from a checkpoint if there is one, and measures on held-out strings."""
    if config.steps < 1:
        raise ValueError(f"A run needs at least one step, not {config.steps}.")
    clock = Clock()
    dataset = load_dataset(config)
    shown = _shown_string(dataset)
    with closing(Checkpoints(config.checkpoint)) as checkpoints:
        return _train(config, clock, dataset, shown, checkpoints)


def _train(
    config: Config, clock: Clock, dataset: Dataset, shown: Batch, checkpoints: Checkpoints
) -> Result:
    learner = Learner(config)
    state, history, first_step = learner.start, History(), 0
    if stored := checkpoints.restore(learner.start, config.resumable_settings()):
        first_step, state, stored_history = stored
        history = History.from_json(stored_history)
        clock.go_on_from(history.seconds, history.user_cpu_seconds)
    else:
        history.posteriors.append(learner.posterior(state.params, shown, 0))

    step, out_of_time = first_step, False
    with progress_bar(config.batch_size, config.steps, first_step, config.progress) as bar:
        while step < config.steps and not out_of_time:
            batch = dataset.training_batch(config.seed, step, config.batch_size)
            state, loss = learner.train_step(state, batch)
            history.losses.append(float(loss))
            step += 1
            bar.step(history.losses[-1])
            out_of_time = config.seconds is not None and clock.run_seconds() > config.seconds
            if step % config.evaluate_every == 0 or step == config.steps or out_of_time:
                error_rate = learner.digit_error_rate(state.params, dataset)
                since = history.curve[-1].step if history.curve else 0
                loss_since = float(np.mean(history.losses[since:]))
                point = CurvePoint(
                    step, clock.seconds(), clock.user_cpu_seconds(), loss_since, error_rate
                )
                history.curve.append(point)
                bar.evaluated(point)
            if step in (config.steps // 2, config.steps):
                history.posteriors.append(learner.posterior(state.params, shown, step))
            if step % config.checkpoint_every == 0 or step == config.steps or out_of_time:
                history.seconds = clock.seconds()
                history.user_cpu_seconds = clock.user_cpu_seconds()
                checkpoints.save(step, state, history.to_json(), config.resumable_settings())

    if history.posteriors[-1].step != step:
        history.posteriors.append(learner.posterior(state.params, shown, step))
    return Result(
        losses=history.losses,
        digit_error_rate=history.curve[-1].digit_error_rate,
        curve=history.curve,
        posteriors=history.posteriors,
        shown_features=shown.features[0],
        shown_digits=(shown.labels[0] - 1).tolist(),
        resumed_from=first_step,
    )


def _shown_string(dataset: Dataset) -> Batch:
    """The first held-out string of five digits (or the first of all), without padding."""
    batch = dataset.test_batch(dataset.test_strings)
    n = int(np.argmax(batch.labels_lengths == 5))
    return Batch(
        features=batch.features[n : n + 1, : batch.frames_lengths[n]],
        frames_lengths=batch.frames_lengths[n : n + 1],
        labels=batch.labels[n : n + 1, : batch.labels_lengths[n]],
        labels_lengths=batch.labels_lengths[n : n + 1],
    )
