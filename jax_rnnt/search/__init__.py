"""From a trained model to text: searches that go through any predictor and joint, under jit."""

from jax_rnnt.search.beam import BeamResult, beam_search
from jax_rnnt.search.greedy import GreedyResult, greedy_search
from jax_rnnt.search.hypotheses import Hypotheses
from jax_rnnt.search.state import BeamState, GreedyState, search_start

__all__ = [
    "BeamResult",
    "BeamState",
    "GreedyResult",
    "GreedyState",
    "Hypotheses",
    "beam_search",
    "greedy_search",
    "search_start",
]
