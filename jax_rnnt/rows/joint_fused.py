"""The joint's forward and backward by CUDA kernels of their own, where there are some.

They take half dtypes on compute capability 8.0 and later. Encoder and predictor go in; activations
and logits stay on the chip in the forward, and what the backward's matrix products need comes out
of one kernel. The plain walk over tiles (`joint_tiles`) computes the same anywhere.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_rnnt._xla import ffi
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt.rows import entries, joint_capability, joint_tiles, pick
from jax_rnnt.rows.activations import name_of
from jax_rnnt.rows.dropout import Dropout
from jax_rnnt.rows.entries import Entries, Selection
from jax_rnnt.rows.joint_grid import WHOLE_TILE
from jax_rnnt.rows.joint_network import Weights
from jax_rnnt.rows.joint_tiles import Cells

_DTYPES = "bfloat16", "float16"


def fits(H: int, W: int, dtype: np.dtype, activation: Callable) -> bool:
    """Whether every CUDA device of this process runs the kernels on such operands."""
    return (
        dtype.name in _DTYPES
        and name_of(activation) is not None
        and _packed_sizes(H, W) is not None
    )


def wave(H: int, W: int, dtype: np.dtype, activation: Callable) -> int | None:
    """How many tiles a device works on at a time, one on each multiprocessor; None if none fit."""
    if not fits(H, W, dtype, activation):
        return None
    return min(device.core_count for device in jax.local_devices(backend="cuda"))


def forward(
    weights: Weights,
    labels: pick.ColumnLabels,
    dropout: Dropout,
    *,
    activation: Callable,
    selection: Selection,
) -> Entries:
    """`joint_tiles.forward`."""
    joint = _Operands(weights, labels, dropout, activation, selection)
    maxima, log_sums, blank, label, *picks = _forward(
        *joint.arrays, insist=True, repeats=len(selection.picks), **joint.options
    )
    return Entries(maxima, log_sums, blank, label, tuple(picks))


def backward(weights: Weights, *operands: Any, activation: Callable, **options: Any) -> Weights:
    """`joint_tiles.backward` of tiles of WHOLE_TILE cells."""
    make_cells = functools.partial(_Cells, activation=activation)
    padded = joint_tiles.backward(_padded(weights), *operands, make_cells=make_cells, **options)
    W = weights.kernel.shape[1]
    return padded._replace(kernel=padded.kernel[:, :W], bias=padded.bias[:W])


def _padded(weights: Weights) -> Weights:
    """Weights with columns up to a multiple of _COLUMNS, none of which a selection has."""
    behind = -weights.kernel.shape[1] % _COLUMNS
    return weights._replace(
        kernel=jnp.pad(weights.kernel, ((0, 0), (0, behind))),
        bias=jnp.pad(weights.bias, (0, behind)),
    )


class _Operands:
    """What the kernels take of a joint: arrays, the first of them in the dtype of the products."""

    def __init__(self, weights, labels, dropout, activation, selection):
        self.encoder, self.predictor, self.kernel, bias = (x.astype(weights.dtype) for x in weights)
        packed = _pack(self.kernel, bias, insist=True, capability=capability())
        seed = lax.bitcast_convert_type(dropout.seed, jnp.int32)
        self.labels, self.places = labels, _apart(dropout.sequences, seed)
        self.arrays = self.encoder, self.predictor, self.kernel, *packed, *labels, *self.places
        self.own = {"activation": name_of(activation), "dropout": dropout.threshold}
        self.options = {
            "capability": capability(),
            **self.own,
            **selection.attributes(),
        }


class _Cells(Cells):
    """A step's cells computed by one kernel before the matrix products and one after them."""

    def __init__(
        self, grid, weights, labels, dropout, rows, cotangents, bounds, selection, *, activation
    ):
        del grid
        self._joint = _Operands(weights, labels, dropout, activation, selection)
        # Each of these sums is added up over the tiles by itself: with one block of threads for so
        # many columns, XLA's sum of wgmma's (264, 8, 1024) took 7.7 us.
        self.bias_parts = (_bias_parts(),)
        if bounds is None:
            (bounds,) = _apart(jnp.full_like(labels.counts, np.inf, dtype=jnp.float32))
        self._rows = bounds, rows.maxima, rows.log_sums, *entries.cotangents_of(cotangents)
        self._tokens = selection.tokens

    def gradients(self, tiles):
        operands = *self._joint.arrays, tiles, *self._rows
        activations, gradients, bias_parts = _gradients(
            *operands, insist=True, **self._joint.options
        )
        R, *_, W = gradients.shape
        return activations, gradients, bias_parts.reshape(R, *self.bias_parts, W).sum(0)

    def hidden(self, tiles, gradients):
        joint = self._joint
        inputs = gradients, joint.encoder, joint.predictor
        operands = *inputs, *joint.labels, tiles, *joint.places
        encoder_parts, predictor_parts = _hidden(
            *operands, insist=True, symbols=self._tokens, **joint.own
        )
        return encoder_parts, predictor_parts


def _apart(*arrays):
    """The same arrays. XLA would otherwise write constants anew in each step, a kernel for each."""
    return lax.optimization_barrier(arrays)


@functools.cache
def capability() -> int | None:
    """The compute capability whose kernels all CUDA devices here run, 90 for 9.0; or None."""
    module = ffi.native_module("cuda")
    if module is None or ffi.fault("cuda") is not None:
        return None
    return joint_capability.choose(
        (gpu.compute_capability for gpu in ffi.cuda_devices()),
        module.joint_architectures(),
        os.environ.get(joint_capability.SWITCH),
    )


def _packed_sizes(H: int, W: int) -> tuple[int, int] | None:
    """Bytes of a packed kernel (H, W) and bias (W,), None where no kernels take the sizes."""
    own, module = capability(), ffi.native_module("cuda")
    if own is None or module is None:
        return None
    return module.joint_packed_sizes(own, H, W)


def _packed_size(index, sizes):
    packed = _packed_sizes(sizes["H"], sizes["W"])
    assert packed is not None
    return packed[index] // 4


def _bias_parts() -> int:
    """Sums of the bias' gradient that the kernel makes of each tile."""
    own, module = capability(), ffi.native_module("cuda")
    assert own is not None
    assert module is not None
    return module.joint_bias_parts(own)


# Rows of gradients are then whole sectors of 32 bytes. For V + D = 1024 + 5 and the cells of
# (32, 400, 100, 640), 1032 columns took the gradients' kernel 203 us and 1040 took it 190 (H100).
_COLUMNS = 16
# The packed kernel and bias are bytes in the order in which the other kernels read them.
_pack = Kernel(
    "joint_pack",
    operands=("HW", "W"),
    results=(functools.partial(_packed_size, 0), functools.partial(_packed_size, 1)),
    result_dtype="accumulator",
    kept=(0, 1),
    platforms=("cuda",),
)
_PLACES = "N", "S"  # the sequences' numbers, and the seed
# With the labels by column and their counts. E sequences of frames, N of labels.
_JOINT = "ETH", "NUH", "HW", "P", "Q", "NU", "N", *_PLACES
_TILE = "R", *WHOLE_TILE
_forward = Kernel(
    "joint_forward",
    operands=_JOINT,
    results=("NTU", "NTU", "NTU", "NTU", "NTU*"),
    result_dtype="accumulator",
    platforms=("cuda",),
)
_gradients = Kernel(
    "joint_gradients",
    operands=(*_JOINT, "R", "N", "NTU", "NTU", "NTU", "NTU", "NTU", "NTU*"),
    results=((*_TILE, "H"), (*_TILE, "W"), lambda sizes: sizes["R"] * _bias_parts() * sizes["W"]),
    result_dtype="operand",
    accumulated=(2,),
    platforms=("cuda",),
)
_hidden = Kernel(
    "joint_hidden",
    operands=("RFCH", "ETH", "NUH", "NU", "N", "R", *_PLACES),
    results=("RFH", "RCH"),
    result_dtype="accumulator",
    platforms=("cuda",),
)
