"""From a trained model to text: searches that go through any predictor and joint, under jit."""

from jax_rnnt.search.greedy import GreedyResult, greedy_search
from jax_rnnt.search.state import GreedyState, search_start

__all__ = ["GreedyResult", "GreedyState", "greedy_search", "search_start"]
