from typing import Any

def ffi_api_version() -> tuple[int, int]:
    """XLA FFI API version of the headers that the module was compiled against."""

def jaxlib_version() -> str:
    """The version of jaxlib that the headers came with."""

def registrations() -> dict[str, Any]:
    """Handler capsules by kernel name."""

def instruction_set() -> str:
    """The instruction set of the kernels that this machine runs: baseline, avx2 or avx512."""
