"""The native modules: finding them, checking that this JAX can load them, registering targets.

Nothing here runs at import. A target is registered when a computation that uses it is lowered for
its platform: by then the backend is up, where a mismatch is an exception and not the end of JAX.
"""

import functools
import importlib
import importlib.metadata
import pathlib
import re
import threading
from types import ModuleType

import jax

# jax's name of a platform -> (our module, the name that jax.ffi registers under)
_PLATFORMS = {"cpu": ("_cpu", "cpu"), "cuda": ("_cuda", "CUDA")}
_registered: set[str] = set()
_lock = threading.Lock()


@functools.cache
def native_module(platform: str) -> ModuleType | None:
    """The module with the kernels of "cpu" or "cuda", or None where it was not built."""
    name = f"jax_rnnt.{_PLATFORMS[platform][0]}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise


def target_name(kernel: str, platform: str) -> str:
    """The custom call target of a kernel on a platform."""
    return f"jax_rnnt_{kernel}_{platform}"


@functools.cache
def runtime_api_version() -> tuple[int, int]:
    """The XLA FFI API version of the installed jaxlib, read from the header that it ships."""
    header = pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header.read_text()))
    return int(found["MAJOR"]), int(found["MINOR"])


def check_api_version(module: ModuleType) -> None:
    """Raise a RuntimeError that says what to install if this jaxlib cannot load the module."""
    built, here = tuple(module.ffi_api_version()), runtime_api_version()
    jaxlib = importlib.metadata.version("jaxlib")
    if built[0] != here[0] or built[1] > here[1]:
        raise RuntimeError(
            f"jax_rnnt's kernels were compiled for XLA FFI API {built[0]}.{built[1]} "
            f"(jaxlib {module.jaxlib_version()}), but jaxlib {jaxlib} here has "
            f"{here[0]}.{here[1]}: install jaxlib>={module.jaxlib_version()}, or build jax_rnnt "
            "here with `pip install --force-reinstall --no-deps --no-binary jax_rnnt jax_rnnt`."
        )


def register(platform: str) -> bool:
    """Register the platform's targets once; False where the package has no kernels for it."""
    if platform not in _PLATFORMS or (module := native_module(platform)) is None:
        return False
    with _lock:
        check_api_version(module)
        for kernel, handler in module.registrations().items():
            target = target_name(kernel, platform)
            if target not in _registered:
                jax.ffi.register_ffi_target(target, handler, platform=_PLATFORMS[platform][1])
                jax.ffi.register_ffi_target_as_batch_partitionable(target)
                _registered.add(target)
    return True


def register_custom_calls() -> None:
    """Register the native targets of every platform whose kernels this installation has.

    Calling a loss does this by itself. Call it before running a computation that was exported with
    `jax.export` elsewhere and reloaded in a process that has not called a loss yet.

    Raises:
        RuntimeError: If the installed jaxlib is too old for the compiled kernels.

    Example:
        >>> import jax_rnnt
        >>> jax_rnnt.register_custom_calls()
    """
    for platform in _PLATFORMS:
        register(platform)


def custom_call_checks() -> list[jax.export.DisabledSafetyCheck]:
    """The checks that `jax.export.export` must skip to accept our custom calls.

    Returns:
        One `DisabledSafetyCheck` for each target of each platform, for `disabled_checks=`.

    Example:
        >>> import jax, jax_rnnt
        >>> exporter = jax.export.export(
        ...     jax.jit(jax_rnnt.rnnt_loss_from_logits),
        ...     disabled_checks=jax_rnnt.custom_call_checks(),
        ... )
    """
    from jax_rnnt._primitive import KERNELS

    return [
        jax.export.DisabledSafetyCheck.custom_call(target_name(kernel, platform))
        for platform in _PLATFORMS
        for kernel in KERNELS
    ]
