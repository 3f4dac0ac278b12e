"""The joint's forward as one CUDA kernel, where there is one.

It takes half dtypes on compute capability 9.0. Encoder and predictor go in, arcs and normalisers
come out; activations and logits stay on the chip. The plain walk over tiles (`_joint_tiles`)
computes the same anywhere.
"""

import functools
from collections.abc import Callable

import jax

from jax_rnnt import _activations, _ffi, pick, reference
from jax_rnnt._joint_tiles import Rows, Weights, logits
from jax_rnnt._primitive import Kernel

_CAPABILITY = "9.0"
_DTYPES = "bfloat16", "float16"


def fits(weights: Weights, activation: Callable) -> bool:
    """Whether a CUDA device of this process runs the kernel on such operands."""
    return (
        weights.dtype.name in _DTYPES
        and _activations.name_of(activation) is not None
        and _has_hopper()
        and _scratch(weights) is not None
    )


def forward(
    weights: Weights, labels: pick.ColumnLabels, *, activation: Callable, blank: int
) -> Rows:
    """`_joint_tiles.forward`."""
    operands = (x.astype(weights.dtype) for x in weights)
    name = _activations.name_of(activation)
    return Rows(*_kernel(*operands, *labels, insist=True, activation=name, blank=blank))


@functools.cache
def _has_hopper() -> bool:
    if _ffi.native_module("cuda") is None:
        return False
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return False
    return {getattr(device, "compute_capability", None) for device in devices} == {_CAPABILITY}


def _scratch(weights: Weights) -> tuple[int, int] | None:
    N, T, H = weights.encoder.shape
    _, U, _ = weights.predictor.shape
    return _scratch_bytes(N, T, U, H, weights.kernel.shape[-1])


def _scratch_bytes(N, T, U, H, V):
    module = _ffi.native_module("cuda")
    assert module is not None
    return module.joint_forward_scratch(N, T, U, H, V)


def _scratch_size(index, sizes):
    return _scratch_bytes(*(sizes[dim] for dim in "NTUHV"))[index] // 4


def _fallback(encoder, predictor, kernel, bias, labels, counts, *, activation, blank):
    function = _activations.ACTIVATIONS[None if activation == "none" else activation]
    rows = logits(Weights(encoder, predictor, kernel, bias), function)
    row_labels = pick.ColumnLabels(labels, counts).of_rows(encoder.shape[1])
    return reference.pick_forward(rows, row_labels, blank=blank)


_kernel = Kernel(
    "joint_forward",
    operands=("NTH", "NUH", "HV", "V", "NU", "N"),
    results=("NTU",) * 4,
    result_dtype="accumulator",
    fallback=_fallback,
    scratch={
        "cuda": (functools.partial(_scratch_size, 0), functools.partial(_scratch_size, 1)),
    },
    platforms=("cuda",),
)
