"""A worker process of `tools/load.py`: it measures a training, or calls from several threads.

    python -m tools.load_worker train '{"steps": 1000, "seed": 0, "cases": 12}'
    python -m tools.load_worker call '{"threads": 8, "rounds": 1, "alike": true, "cases": 12}'

Prints "ready", waits for a line, and prints its results as JSON.
"""

import concurrent.futures
import functools
import gc
import hashlib
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt

BANDS, H, V = 16, 64, 48
LEARNING_RATE = 0.05
SAMPLES = 100  # of the memory, over a training

Params = dict[str, jax.Array]
Results = dict[str, Any]


class Case(NamedTuple):
    """The path to the loss, and sizes; each case is compiled once."""

    path: str
    N: int
    T: int
    U: int
    dtype: str


class Batch(NamedTuple):
    """The inputs that change from step to step; labels are packed where the path is compact."""

    labels: np.ndarray
    frames_lengths: np.ndarray
    labels_lengths: np.ndarray


PATHS = "logits", "joint", "compact"
SHAPES = (
    (2, 48, 12, "float32"),
    (4, 80, 20, "bfloat16"),
    (3, 65, 17, "float16"),
    (1, 130, 33, "float32"),
)
CASES = [Case(PATHS[i % 3], *SHAPES[i % 4]) for i in range(12)]


def make_params() -> Params:
    rng = np.random.default_rng(0)
    shapes = {"encoder": (BANDS, H), "predictor": (BANDS, H), "kernel": (H, V), "bias": (V,)}
    return {
        name: jnp.asarray(rng.standard_normal(shape) / shape[0] ** 0.5, jnp.float32)
        for name, shape in shapes.items()
    }


def make_features(case: Case) -> list[jax.Array]:
    """The features of frames and of columns, or of every row where the path is compact."""
    path, N, T, U, _ = case
    shapes = [(N * T * U, BANDS)] if path == "compact" else [(N, T, BANDS), (N, U, BANDS)]
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def draw_batch(case: Case, rng: np.random.Generator) -> Batch:
    path, N, T, U, _ = case
    labels = rng.integers(1, V, N * (U - 1) if path == "compact" else (N, U - 1))
    lengths = rng.integers(1, T + 1, N), rng.integers(0, U, N)
    return Batch(*(x.astype(np.int32) for x in (labels, *lengths)))


def mean_cost(case: Case, params: Params, features: Sequence[jax.Array], batch: Batch) -> jax.Array:
    """The mean cost in nats per frame, by no gathers: a GPU sums their gradients in any order."""
    params, features = jax.tree.map(lambda x: x.astype(case.dtype), (params, features))
    kernel, bias = params["kernel"], params["bias"]
    options: dict[str, Any] = {"average_frames": True, "reduction": "mean"}
    encoder = features[0] @ params["encoder"]
    if case.path == "compact":
        logits = jnp.tanh(encoder) @ kernel + bias
        return jax_rnnt.rnnt_loss_from_logits(logits, *batch, compact=True, **options)
    predictor = features[1] @ params["predictor"]
    if case.path == "joint":
        return jax_rnnt.rnnt_loss_from_joint(encoder, predictor, kernel, bias, *batch, **options)
    logits = jnp.tanh(encoder[:, :, None] + predictor[:, None]) @ kernel + bias
    return jax_rnnt.rnnt_loss_from_logits(logits, *batch, **options)


def loss_and_gradients(case: Case) -> Callable[..., tuple[jax.Array, Params]]:
    return jax.value_and_grad(functools.partial(mean_cost, case))


def train_step(case: Case) -> Callable[..., tuple[jax.Array, Params]]:
    """One step of gradient descent, written over the parameters."""

    def step(params, features, batch):
        loss, gradients = loss_and_gradients(case)(params, features, batch)
        return loss, jax.tree.map(lambda x, g: x - LEARNING_RATE * g, params, gradients)

    return jax.jit(step, donate_argnums=0)


def train(wait: Callable[[], None], steps: int, seed: int, cases: int) -> Results:
    """Train on a random case at each step; return memory, and a hash of losses and parameters."""
    compilations: list[str] = []

    def count(event: str, duration: float, **_) -> None:
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    chosen = CASES[:cases]
    functions, features = [train_step(x) for x in chosen], [make_features(x) for x in chosen]
    params, rng, digest = make_params(), np.random.default_rng(seed), hashlib.sha256()
    finite = True

    def advance(i: int) -> None:
        nonlocal params, finite
        loss, params = functions[i](params, features[i], draw_batch(chosen[i], rng))
        loss = np.asarray(loss)
        digest.update(loss.tobytes())
        finite &= bool(np.isfinite(loss))

    for i in range(len(chosen)):
        advance(i)
    compiled, samples = len(compilations), []
    gc.collect()
    gc.freeze()  # what is here stays: the later collections are short
    wait()
    start = time.perf_counter()
    for step in range(steps):
        if step % max(1, steps // SAMPLES) == 0:
            samples.append((step, *_memory()))
        advance(int(rng.integers(len(chosen))))
    seconds = time.perf_counter() - start
    samples.append((steps, *_memory()))
    for name in sorted(params):
        digest.update(np.asarray(params[name]).tobytes())
    return {
        "seconds": seconds,
        "finite": finite,
        "digest": digest.hexdigest(),
        "compilations": [compiled, len(compilations) - compiled],
        "samples": samples,
    }


def _memory() -> tuple[int, int, int]:
    """Bytes in use on the host (resident, as Linux counts), on the device, and the device's peak.

    Where the backend does not count, the sum of JAX's live arrays stands for both of the device's.
    """
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    host = pages * os.sysconf("SC_PAGE_SIZE")
    if stats := jax.local_devices()[0].memory_stats():
        return host, stats["bytes_in_use"], stats["peak_bytes_in_use"]
    in_use = sum(x.nbytes for x in jax.live_arrays())
    return host, in_use, in_use


def call(wait: Callable[[], None], threads: int, rounds: int, alike: bool, cases: int) -> Results:
    """Every thread calls every case: all threads in one order, or each beginning at another case.

    The first call of a case compiles it, and the very first call registers the custom calls.
    """
    chosen = CASES[:cases]
    functions = [jax.jit(loss_and_gradients(case)) for case in chosen]
    params, features = make_params(), [make_features(case) for case in chosen]
    batches = [draw_batch(case, np.random.default_rng(0)) for case in chosen]
    barrier = threading.Barrier(threads)
    wait()

    def run(thread: int) -> list[tuple[int, str]]:
        barrier.wait()
        own = []
        for k in range(rounds * len(chosen)):
            i = (k + (0 if alike else thread)) % len(chosen)
            results = jax.tree.leaves(functions[i](params, features[i], batches[i]))
            together = b"".join(np.asarray(x).tobytes() for x in results)
            own.append((i, hashlib.sha256(together).hexdigest()))
        return own

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        calls = [one for own in pool.map(run, range(threads)) for one in own]
    return {
        "seconds": time.perf_counter() - start,
        "calls": len(calls),
        "digests": [sorted({digest for i, digest in calls if i == j}) for j in range(len(chosen))],
    }


def main() -> None:
    def wait() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    run = {"train": train, "call": call}[sys.argv[1]]
    results = run(wait, **json.loads(sys.argv[2]))
    device = jax.devices()[0].device_kind
    print(json.dumps({"device": device, "jax": jax.__version__, **results}))


if __name__ == "__main__":
    main()
