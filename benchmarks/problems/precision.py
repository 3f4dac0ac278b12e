"""Gradients against float64, which is NumPy and logarithms here: independent of every contender."""

import ml_dtypes  # noqa: F401  # names bfloat16 to NumPy
import numpy as np

from benchmarks.problems.shapes import Case


def rounded_logits(case: Case, dtype: str) -> np.ndarray:
    """Standard normal numbers times the case's scale that `dtype` holds exactly, as float32."""
    shape = case.N, case.T, case.U, case.V
    logits = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(case.scale)
    return logits.astype(np.dtype(dtype)).astype(np.float32)


def errors(costs: np.ndarray, gradient: np.ndarray, logits: np.ndarray, case: Case) -> dict:
    """Errors of float32 costs (N,) and of their sum's gradient (N, T, U, V); lengths must be full.

    `relative` is the norm of the difference over the norm of the float64 gradient.
    """
    labels = case.arrays()[0]
    difference = norm = largest = cost_error = 0.0
    for n in range(case.N):
        cost, expected = sequence_gradient(logits[n].astype(np.float64), labels[n])
        distance = gradient[n].astype(np.float64) - expected
        difference += np.vdot(distance, distance)
        norm += np.vdot(expected, expected)
        largest = max(largest, np.abs(distance).max())
        cost_error = max(cost_error, abs(float(costs[n]) - cost))
    return {
        "relative": float(np.sqrt(difference / norm)),
        "largest": float(largest),
        "cost": float(cost_error),
    }


def sequence_gradient(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Cost, and its gradient (T, U, V), of one sequence that fills logits (T, U, V)."""
    T, U, _ = logits.shape
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    column = np.arange(U - 1)
    with np.errstate(divide="ignore"):
        blank = np.log(softmax[..., 0])
        label = np.full((T, U), -np.inf)
        label[:, :-1] = np.log(softmax[:, column, labels])
    alpha = _alpha(blank, label)
    log_likelihood = alpha[-1, -1] + blank[-1, -1]
    # beta[t, u] of the lattice is alpha of the reflected one, the last blank taken out.
    reflected_blank, reflected_label = np.full_like(blank, -np.inf), np.full_like(label, -np.inf)
    reflected_blank[:-1] = blank[:-1][::-1, ::-1]
    reflected_label[:, :-1] = label[:, :-1][::-1, ::-1]
    beta = _alpha(reflected_blank, reflected_label)[::-1, ::-1] + blank[-1, -1]
    after_blank = np.full((T, U), -np.inf)
    after_blank[:-1] = beta[1:]
    after_blank[-1, -1] = 0
    after_label = np.full((T, U), -np.inf)
    after_label[:, :-1] = beta[:, 1:]
    blank_posterior = np.exp(alpha + blank + after_blank - log_likelihood)
    label_posterior = np.exp(alpha + label + after_label - log_likelihood)
    gradient = softmax * (blank_posterior + label_posterior)[..., None]
    gradient[..., 0] -= blank_posterior
    gradient[:, column, labels] -= label_posterior[:, :-1]
    return -log_likelihood, gradient


def _alpha(blank: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Log-probability of reaching each cell, by anti-diagonals t + u."""
    T, U = blank.shape
    alpha = np.full((T, U), -np.inf)
    alpha[0, 0] = 0
    for diagonal in range(1, T + U - 1):
        u = np.arange(max(0, diagonal - T + 1), min(U, diagonal + 1))
        t = diagonal - u
        left = np.where(t > 0, alpha[t - 1, u] + blank[t - 1, u], -np.inf)
        below = np.where(u > 0, alpha[t, u - 1] + label[t, u - 1], -np.inf)
        alpha[t, u] = np.logaddexp(left, below)
    return alpha
