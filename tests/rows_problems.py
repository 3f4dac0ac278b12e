"""Rows of logits to normalise, and `pick_rows` compiled once for each set of options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle_rows

import jax_rnnt
from jax_rnnt.rows.pick import ColumnLabels


def rows_by_column(
    rng: np.random.Generator,
    batch: tuple[int, ...],
    R: int,
    C: int,
    V: int,
    dtype: str = "float32",
    durations: int = 0,
) -> tuple[np.ndarray, ColumnLabels]:
    """Logits (*batch, R, C, V + durations) whose padding is NaN, and labels of every kind."""
    labels = rng.integers(-1, V, (*batch, C)).astype(np.int32)
    senseless = rng.choice(np.array([-2, -(2**31), 2**31 - 1, V, V + 1], np.int32), labels.shape)
    labels = np.where(rng.random(labels.shape) < 0.2, senseless, labels)
    counts = np.asarray(rng.integers(-1, R + 2, batch), np.int32)
    chance = rng.random(batch)
    counts = np.where(chance < 0.1, np.int32(2**31 - 1), counts)
    counts = np.where(chance > 0.9, np.int32(-(2**31)), counts)
    beyond = np.arange(R)[:, None] >= counts[..., None, None]
    unlabelled = ((labels < -1) | (labels >= V))[..., None, :]
    logits = rng.standard_normal((*batch, R, C, V + durations))
    logits = np.where((beyond | unlabelled)[..., None], np.nan, logits).astype(jnp.dtype(dtype))
    return logits, ColumnLabels(labels, counts)


def rows_of_every_kind(
    rng: np.random.Generator,
    V: int,
    blank: int,
    durations: int,
    dtype: str = "float32",
    plain: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (R, V + durations) of every kind, then of `plain` ordinary rows, and their labels."""
    kinds = 20
    logits = 2 * rng.standard_normal((kinds + plain, V + durations))
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    labels = rng.integers(-1, V, len(logits)).astype(np.int32)
    labels[:5] = blank, -1, -2, -(2**31), V
    logits[2:5] = np.nan
    tokens, heads = logits[:, :V], logits[:, V:]
    own = labels % V
    tokens[5] = -np.inf
    tokens[6], tokens[6, blank] = -np.inf, 0.5
    tokens[7, blank] = -np.inf
    tokens[8, own[8]] = -np.inf
    tokens[9], tokens[9, own[9]] = -np.inf, 1e4
    tokens[10], tokens[10, blank], tokens[10, own[10]] = -np.inf, 3, 2
    tokens[11, blank] = np.nan
    tokens[12, own[12]] = np.inf
    tokens[13, rng.integers(V)] = np.nan
    tokens[14] -= 1e4
    tokens[14, blank] = -1e4
    if durations:
        heads[15, -1], heads[16, 0], heads[17], heads[18, 0] = np.nan, np.inf, -np.inf, -np.inf
    tokens[19, blank] = 200
    return logits.astype(jnp.dtype(dtype)), labels


def rows_cotangents(
    rng: np.random.Generator,
    rows: int,
    others: int,
    rest: bool,
    durations: int,
    dtype: str = "float32",
) -> oracle_rows.Rows:
    """Standard normal ones of all that rows give; zeros for a rest that they do not."""

    def draw(*shape):
        return rng.standard_normal((rows, *shape)).astype(
            np.float64 if dtype == "float64" else np.float32
        )

    return oracle_rows.Rows(draw(), draw(), draw(others), draw() * rest, draw(durations))


@functools.cache
def compiled_rows(implementation, rest, **options):
    """Rows and the gradient of logits, under jit."""

    @jax.jit
    def run(logits, labels, cotangents):
        def pick(x):
            return jax_rnnt.pick_rows(
                x, labels, rest=rest, implementation=implementation, **options
            )

        rows, vjp = jax.vjp(pick, logits)
        given = [c if x is not None else None for x, c in zip(rows, cotangents)]
        return rows, vjp(jax_rnnt.Rows(*given))[0]

    return run


def options_of_seven(normalize, others, durations, blank=1):
    """Options for rows of seven symbols."""
    others = tuple((blank + i) % 7 for i in (3, 1))[:others]
    return dict(blank=blank, normalize=normalize, others=others, durations=durations)
