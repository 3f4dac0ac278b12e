"""A joint network on a band of columns, as a source of rows."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt import _checks
from jax_rnnt.lattice.ranges import band_width
from jax_rnnt.losses import layouts
from jax_rnnt.losses.rnnt import ROWS
from jax_rnnt.rows.joint_band import BandJoint, BandJointPicks
from jax_rnnt.rows.joint_entries import Joint


def band_of_joint(
    joint: Joint,
    columns: ArrayLike | None,
    width: int | None,
    frames_lengths: _checks.Integers,
    where: Any,
) -> layouts.Band:
    """The band of a caller's arguments; TypeError or ValueError if they do not make one."""
    if columns is None or width is None:
        raise ValueError(
            "columns and width must be given together, got "
            f"{'no columns' if columns is None else 'no width'}."
        )
    for name, value in (("min_posterior", joint.min_posterior), ("tile", joint.tile)):
        if value is not None:
            raise ValueError(f"{name} is for a walk over tiles: with columns there is none.")
    rows = BandJoint(
        joint,
        jnp.asarray(_checks.integers("columns", columns)),
        band_width(_checks.at_least_one("width", width), joint.shape[-2]),
    )
    return layouts.band_of("the joint", rows, columns, joint.shape[-2], frames_lengths, where)


def traced_band(joint: Joint, columns: jax.Array, width: int) -> layouts.Band:
    """The band of checked arguments."""
    U = joint.shape[-2]
    return layouts.Band(BandJoint(joint, columns, band_width(width, U)), columns, U)


def band_picks(normalize: str) -> layouts.BandPicks:
    """A band's `rows_to_picks` for `checked_loss` with `clamped`; or ValueError."""
    _checks.choice("normalize", normalize, tuple(ROWS))
    return layouts.BandPicks(BandJointPicks(ROWS[normalize]), clamped=True)
