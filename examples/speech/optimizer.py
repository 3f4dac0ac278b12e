"""AdamW with warm-up and cosine, a bound on gradients, and batches that are left out."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from .settings import Settings

# So many bad batches one after the other are no accident: `progress.py` then ends the training.
MOST_BAD_BATCHES = 20


def schedule(settings: Settings) -> optax.Schedule:
    """Up to the learning rate within the warm-up, then down a cosine to a hundredth of it."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.learning_rate,
        warmup_steps=min(settings.warmup_steps, settings.steps // 2),
        decay_steps=settings.steps,
        end_value=0.01 * settings.learning_rate,
    )


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """The optimizer. Matrices decay; biases, norms and other vectors do not."""

    def is_matrix(params: Any) -> Any:
        def of(path: tuple, x: jax.Array) -> bool:
            stacked = any(getattr(entry, "key", None) == "blocks" for entry in path)
            return x.ndim - stacked > 1

        return jax.tree_util.tree_map_with_path(of, params)

    optimizer = optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            schedule(settings),
            b2=0.98,
            weight_decay=settings.weight_decay,
            mask=is_matrix,
        ),
    )
    if settings.accumulate > 1:
        steps = optax.MultiSteps(optimizer, settings.accumulate)
        optimizer = steps.gradient_transformation()
    return optax.apply_if_finite(optimizer, MOST_BAD_BATCHES)


def running_average(average: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """The average of weights after `step` updates; of the first ones, that of a shorter past."""
    step = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(params, average, 1 - decay)
