"""RNN-Transducer loss for JAX: CUDA and CPU kernels behind `jit`, `grad`, `vmap` and sharding."""

import importlib
from typing import TYPE_CHECKING, Any

from jax_rnnt import reference, search
from jax_rnnt._version import __version__
from jax_rnnt.export import custom_call_checks, register_custom_calls
from jax_rnnt.lattice.align import Alignment, lattice_align
from jax_rnnt.lattice.arcs import arcs_cost
from jax_rnnt.lattice.arcs_align import arcs_align, arcs_posteriors
from jax_rnnt.lattice.cost import lattice_cost
from jax_rnnt.lattice.posteriors import (
    CostAndPosteriors,
    arcs_cost_and_posteriors,
    lattice_cost_and_posteriors,
)
from jax_rnnt.lattice.ranges import least_prune_width, prune_ranges
from jax_rnnt.losses.align import rnnt_align
from jax_rnnt.losses.align_joint import rnnt_align_from_joint
from jax_rnnt.losses.biases import alignment_window, delay_penalty
from jax_rnnt.losses.joint import rnnt_loss_from_joint
from jax_rnnt.losses.joint_rows import pick_rows_from_joint
from jax_rnnt.losses.pruned import PrunedLosses, pruned_rnnt_loss
from jax_rnnt.losses.rnnt import rnnt_loss, rnnt_loss_from_logits
from jax_rnnt.losses.simple import simple_arcs
from jax_rnnt.losses.tdt import tdt_loss_from_logits
from jax_rnnt.losses.tdt_joint import tdt_loss_from_joint
from jax_rnnt.rows.pick import log_softmax_pick
from jax_rnnt.rows.pick_rows import Rows, pick_rows
from jax_rnnt.search.beam import beam_search
from jax_rnnt.search.greedy import greedy_search
from jax_rnnt.search.state import search_start

if TYPE_CHECKING:
    from jax_rnnt import flax as flax

__all__ = [
    "Alignment",
    "CostAndPosteriors",
    "PrunedLosses",
    "Rows",
    "__version__",
    "alignment_window",
    "arcs_align",
    "arcs_cost",
    "arcs_cost_and_posteriors",
    "arcs_posteriors",
    "beam_search",
    "custom_call_checks",
    "delay_penalty",
    "greedy_search",
    "lattice_align",
    "lattice_cost",
    "lattice_cost_and_posteriors",
    "least_prune_width",
    "log_softmax_pick",
    "pick_rows",
    "pick_rows_from_joint",
    "prune_ranges",
    "pruned_rnnt_loss",
    "reference",
    "register_custom_calls",
    "rnnt_align",
    "rnnt_align_from_joint",
    "rnnt_loss",
    "rnnt_loss_from_joint",
    "rnnt_loss_from_logits",
    "search",
    "search_start",
    "simple_arcs",
    "tdt_loss_from_joint",
    "tdt_loss_from_logits",
]


def __getattr__(name: str) -> Any:
    # `jax_rnnt.flax` needs no import of its own, and imports Flax when it is first asked for.
    if name == "flax":
        return importlib.import_module("jax_rnnt.flax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
