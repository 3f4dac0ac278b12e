"""The training step on all devices: the batch is split over them, parameters are on each."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .batches import Batch
from .model import Transducer
from .optimizer import make_optimizer, running_average
from .plan import Shape
from .programs import compile_together
from .settings import Settings


class TrainingState(NamedTuple):
    """All that a step changes."""

    params: nnx.State
    optimizer_state: optax.OptState
    average: nnx.State  # of the params of all steps: what is evaluated
    batches: jax.Array  # () int32, seen so far: what is random in a step follows from it


class Totals(NamedTuple):
    """Sums over a batch, of all devices."""

    cost: jax.Array  # nats
    utterances: jax.Array
    labels: jax.Array


def totals_and_gradient(graph: nnx.GraphDef, mesh: Mesh) -> Any:
    """From (params, batch, key, step) to the sums over a batch and the gradient of its cost.

    Inside `shard_map` every device computes on its own rows, as a program for one device does, and
    `psum` is all that devices say to each other. A joint's loss is a loop, into which the
    partitioner of a plain `jit` would put a message of its own.
    """

    def of_device(params: nnx.State, batch: Batch, key: jax.Array, step: jax.Array) -> Any:
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))  # or all would drop the same

        def cost(params: nnx.State) -> jax.Array:
            return nnx.merge(graph, params).loss(batch, key, step).sum()

        cost, gradient = jax.value_and_grad(cost)(params)
        rows = jnp.sum(batch.samples_lengths > 0, dtype=jnp.float32)
        labels = jnp.sum(batch.labels_lengths, dtype=jnp.float32)
        return jax.lax.psum((Totals(cost, rows, labels), gradient), "data")

    # check_vma would have JAX add up gradients wherever a parameter is used, and not once.
    return jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(P(), P("data"), P(), P()),
        out_specs=P(),
        check_vma=False,
    )


_START = ()  # among a learner's programs, the one that makes the first state


class Learner:
    """The first state and the step of a training on the devices of a mesh with an axis `data`."""

    def __init__(self, settings: Settings, vocabulary: int, mesh: Mesh) -> None:
        self.settings = settings
        self.everywhere = NamedSharding(mesh, P())
        self.split = NamedSharding(mesh, P("data"))
        self.optimizer = make_optimizer(settings)

        def make() -> Transducer:
            return Transducer(settings, vocabulary, rngs=nnx.Rngs(settings.seed))

        self.graph, _ = nnx.split(nnx.eval_shape(make))
        self.sums = totals_and_gradient(self.graph, mesh)

        def start() -> TrainingState:
            params = nnx.state(make())
            # Two arrays: the average goes its own way.
            average = jax.tree.map(jnp.copy, params)
            return TrainingState(params, self.optimizer.init(params), average, jnp.int32(0))

        self._start = jax.jit(start, out_shardings=self.everywhere)
        self._step = jax.jit(self._next, out_shardings=self.everywhere)
        # The shapes of a state, from which all is compiled and restored before there is one.
        self.like: TrainingState = jax.tree.map(
            lambda x: x.update(sharding=self.everywhere), self._start.eval_shape()
        )
        self.programs: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def start(self) -> TrainingState:
        """The state before the first step."""
        return self.programs.get(_START, self._start)()

    def _next(self, state: TrainingState, batch: Batch) -> tuple[TrainingState, Totals]:
        settings = self.settings
        key = jax.random.fold_in(jax.random.key(settings.seed), state.batches)
        batches = state.batches + 1
        step = state.batches // settings.accumulate
        totals, gradient = self.sums(state.params, batch, key, step)
        # Of the mean over labels: batches of short and of long utterances then weigh the same.
        gradient = jax.tree.map(lambda x: x / jnp.maximum(totals.labels, 1), gradient)
        with jax.named_scope("optimizer"):
            updates, optimizer_state = self.optimizer.update(
                gradient, state.optimizer_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
            average = running_average(state.average, params, step, settings.average_decay)
        if settings.accumulate > 1:  # weights stand still until the last batch of a step
            is_last = batches % settings.accumulate == 0
            average = jax.tree.map(functools.partial(jnp.where, is_last), average, state.average)
        return TrainingState(params, optimizer_state, average, batches), totals

    def lower(self, shape: Shape) -> jax.stages.Lowered:
        """The step for batches of a shape."""
        rows, samples, labels = shape
        sizes = Batch(
            audio=((rows, samples), jnp.float32),
            samples_lengths=((rows,), jnp.int32),
            labels=((rows, labels), jnp.int32),
            labels_lengths=((rows,), jnp.int32),
        )
        return self._step.lower(
            self.like, Batch(*(jax.ShapeDtypeStruct(*x, sharding=self.split) for x in sizes))
        )

    def lowered(
        self, shapes: Iterable[Shape], *, starts: bool = True
    ) -> Iterator[tuple[tuple[int, ...], jax.stages.Lowered]]:
        """What `programs` are to be compiled from; the first state's only if the learner starts."""
        if starts:
            yield _START, self._start.lower()
        for shape in shapes:
            yield tuple(shape), self.lower(shape)

    def compile(self, shapes: Iterable[Shape]) -> None:
        """Compiles the first state and the step for all shapes: nothing is compiled later."""
        (new,) = compile_together(self.lowered(shapes))
        self.programs |= new

    def __call__(self, state: TrainingState, batch: Batch) -> tuple[TrainingState, Totals]:
        """A step on this process's rows of a batch."""
        placed = Batch(
            *(jax.make_array_from_process_local_data(self.split, np.asarray(x)) for x in batch)
        )
        shape = (*placed.audio.shape, placed.labels.shape[1])
        return self.programs[shape](state, placed)


def bad_batches(state: TrainingState) -> int:
    """How many batches were left out because their gradient was not finite."""
    return int(state.optimizer_state.total_notfinite)
