"""One RNN-T lattice for each `rnnt_type`, from the blank's and the label's log-probabilities.

A type is a function from both, (..., T, U) or packed, to its arcs {(frames, labels): log-weights}.
"""

import functools
import types

import jax.numpy as jnp
import numpy as np

from jax_rnnt import _checks


def _regular(blank, label):
    return {(1, 0): blank, (0, 1): label}


def _modified(blank, label):
    return {(1, 0): blank, (1, 1): label}


def _constrained(blank, label):
    return {(1, 0): blank, (1, 1): label + _next_column(blank)}


def _next_column(x):
    """The entries of the cells one column on; what stands in for the last column's is not used.

    Both layouts have a frame's columns one behind the other, and no arc writes a label in the last.
    """
    after = [(0, 0)] * (x.ndim - 1) + [(0, 1)]
    return jnp.pad(x[..., 1:], after, constant_values=-np.inf)


def _costs(topology, picks, options, solve):
    return solve(_arcs(topology, picks, options))


def _arcs(topology, picks, options):
    blank, label = picks
    blank = biased(blank, options["blank_bias"])
    label = biased(label, options["label_bias"])
    return topology(blank, label)


def biased(log_probs, bias):
    """Log-probabilities of cells with a bias that broadcasts to them, or none."""
    if bias is None:
        return log_probs
    leading = range(log_probs.ndim - bias.ndim)
    return log_probs + jnp.expand_dims(bias, leading).astype(log_probs.dtype)


_TOPOLOGIES = types.MappingProxyType(
    {"regular": _regular, "modified": _modified, "constrained": _constrained}
)
_COSTS = types.MappingProxyType(
    {name: functools.partial(_costs, topology) for name, topology in _TOPOLOGIES.items()}
)


def arcs_of(rnnt_type: str, picks, options) -> dict:
    """A type's arcs from both log-probabilities and the biases among a loss's options."""
    return _arcs(_TOPOLOGIES[rnnt_type], picks, options)


def costs_of(rnnt_type: str) -> functools.partial:
    """A type's `picks_to_costs` for `checked_loss`, the same object each time; or ValueError."""
    _checks.choice("rnnt_type", rnnt_type, tuple(_COSTS))
    return _COSTS[rnnt_type]
