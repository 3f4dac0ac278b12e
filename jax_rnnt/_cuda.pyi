from typing import Any

def ffi_api_version() -> tuple[int, int]:
    """XLA FFI API version of the headers that the module was compiled against."""

def jaxlib_version() -> str:
    """The version of jaxlib that the headers came with."""

def registrations() -> dict[str, Any]:
    """Handler capsules by kernel name."""

def joint_packed_sizes(capability: int, H: int, W: int) -> tuple[int, int] | None:
    """Bytes of a joint network's packed kernel and bias for the kernels of a compute capability.

    None where it has none that take the sizes. 90 is 9.0.
    """

def joint_bias_parts(capability: int) -> int:
    """Sums of the bias' gradient that the kernels of a compute capability make of a tile."""

def architectures() -> str:
    """The architectures that the kernels were compiled for, in CMake's terms."""

def joint_architectures() -> str:
    """Those of the joint network's kernels, besides the ones that are for 9.0 alone."""

def toolkit_version() -> tuple[int, int]:
    """The version of CUDA that the kernels were compiled with."""

def driver_version() -> tuple[int, int]:
    """The newest version of CUDA that the driver here knows, (0, 0) without a driver."""
