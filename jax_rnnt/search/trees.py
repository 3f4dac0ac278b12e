"""Pytrees whose leaves are batches: chosen from and checked as one array is."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_rnnt._xla.sharding import vary_alike


def where(mask: jax.Array, new: Any, old: Any) -> Any:
    """The tree `new` where the mask of the leading axes is true, `old` elsewhere."""
    return jax.tree.map(lambda x, y: jnp.where(_with_axes(mask, x), x, y), new, old)


def _with_axes(mask: jax.Array, like: jax.Array) -> jax.Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def frames_at(encoder: Any, index: jax.Array) -> Any:
    """The encoder's frames (N, W, ...) at the given indices (N, W), each within [0, T)."""

    def take(x: jax.Array) -> jax.Array:
        whole = index.reshape(index.shape + (1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, whole, axis=1, mode="clip")

    return jax.tree.map(take, encoder)


def vary_together(tree: Any, *others: Any) -> Any:
    """The tree, varying over all manual mesh axes over which any leaf or any of the others does."""
    leaves, structure = jax.tree.flatten(tree)
    varying = vary_alike(*leaves, *jax.tree.leaves(others))
    return jax.tree.unflatten(structure, varying[: len(leaves)])


def batch_size(name: str, tree: Any) -> int:
    """The first axis of all leaves; ValueError if they have none in common."""
    leaves = jax.tree.leaves(tree)
    if not leaves:
        raise ValueError(
            f"{name} has no array that says N: a predictor without a state takes jnp.zeros((N, 0))."
        )
    shapes = [jnp.shape(x) for x in leaves]
    first = shapes[0][:1]
    if any(shape[:1] != first or not shape for shape in shapes):
        raise ValueError(f"Each array of {name} must be (N, ...), got shapes {shapes}.")
    return first[0]


def same_types(what: str, new: Any, old: Any) -> None:
    """TypeError unless a tree has the structure, the shapes and the dtypes of another."""
    types = [jax.tree.map(_type, tree) for tree in (new, old)]
    if types[0] != types[1]:
        raise TypeError(
            f"{what} must keep its arrays' shapes and dtypes: {types[1]} became {types[0]}."
        )


def _type(x: Any) -> str:
    return f"{jnp.result_type(x)}{list(jnp.shape(x))}"
