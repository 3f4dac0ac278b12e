"""Runs every kernel once on small inputs whose sizes straddle its blocks, for a sanitizer to watch.

Prints the error against the reference beside each case, and exits with 1 if one is large. With
--native-only there is no reference: a sanitizer slows every compilation down.
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt

jax.config.update("jax_enable_x64", True)

SHAPES = [  # (N, T, U, V): columns about one warp, two, a block's panels; rows about every kernel
    (2, 5, 1, 1),
    (3, 9, 5, 3),
    (2, 33, 33, 28),
    (2, 17, 65, 50),
    (1, 70, 9, 129),
    (1, 3, 4, 600),
    (1, 2, 3, 5000),
    (1, 12, 700, 4),
]
DTYPES = ("float32", "bfloat16", "float16", "float64")


def run(N, T, U, V, dtype, compact):
    rng = np.random.default_rng(U + V)
    logits = rng.standard_normal((N, T, U, V))
    labels = rng.integers(0, V, (N, U - 1))
    frames_lengths = rng.integers(max(1, T - 3), T + 1, N)
    labels_lengths = rng.integers(max(0, U - 3), U, N)
    if compact:
        pairs = list(zip(frames_lengths, labels_lengths))
        cells = [logits[n, :t, : u + 1].reshape(-1, V) for n, (t, u) in enumerate(pairs)]
        logits = np.concatenate([*cells, np.full((7, V), np.nan)])
        labels = np.concatenate([labels[n, :u] for n, u in enumerate(labels_lengths)])
    logits = jnp.asarray(logits, dtype)

    def value_and_grad(implementation):
        def loss(logits):
            return jax_rnnt.rnnt_loss_from_logits(
                logits,
                labels,
                frames_lengths,
                labels_lengths,
                compact=compact,
                implementation=implementation,
            )

        costs, vjp = jax.vjp(jax.jit(loss), logits)
        return loss(logits), costs, vjp(jnp.ones_like(costs))[0]

    native = [np.float64(x) for x in value_and_grad("native")]
    if "--native-only" in sys.argv:
        return 0.0 if all(np.isfinite(x).all() for x in native) else np.inf
    reference = [np.float64(x) for x in value_and_grad("reference")]
    return max(np.abs(a - b).max() / (np.abs(b).max() + 1e-6) for a, b in zip(native, reference))


def main():
    worst = 0.0
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        for compact in (False, True):
            error = run(*shape, dtype, compact)
            tolerance = {"float32": 3e-6, "float64": 1e-12}.get(dtype, 1e-2)
            print(shape, dtype, "compact" if compact else "padded", f"{error:.1e}", flush=True)
            worst = max(worst, float(error) / tolerance)
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
