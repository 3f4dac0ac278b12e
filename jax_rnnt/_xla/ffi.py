"""The native modules: finding them, telling whether they can be used here, registering targets.

Nothing here runs at import. A target is registered when a computation that uses it is lowered for
its platform. By then the backend is up: a mismatch raises an exception, and does not break JAX.
Kernels that were built but cannot be used are no error: the same function runs in plain JAX, and
one sentence says why.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import pathlib
import re
import threading
import warnings
from types import ModuleType
from typing import Any, NamedTuple

import jax

from jax_rnnt._xla.architectures import Build, Gpu, version, why_not
from jax_rnnt._xla.elf import is_cut_off

# jax's name of a platform -> (our module, the name that jax.ffi registers under)
PLATFORMS = {"cpu": ("_cpu", "cpu"), "cuda": ("_cuda", "CUDA")}
_BUILD = "`pip install --force-reinstall --no-deps --no-binary jax_rnnt jax_rnnt`"
_registered: set[str] = set()
_warned: set[str] = set()
_lock = threading.Lock()


class _Loaded(NamedTuple):
    module: ModuleType | None
    fault: str | None = None


def native_module(platform: str) -> ModuleType | None:
    """The module with the kernels of "cpu" or "cuda"; None if not built or if it does not load."""
    return _load(platform).module


def fault(platform: str) -> str | None:
    """One sentence on why the kernels built for a platform cannot be used here; None if they can.

    For "cuda" this asks for the process's devices: call it where their backend is up anyhow.
    """
    if platform not in PLATFORMS:
        return None
    module, reason = native_module(platform), _installed_fault(platform)
    if platform == "cuda" and module is not None and reason is None:
        reason = _devices_fault(module)
    return None if reason is None else _sentence(platform, reason)


def warn_once(sentence: str) -> None:
    """Warn that plain JAX runs because of a `fault`, once for each fault."""
    with _lock:
        if sentence in _warned:
            return
        _warned.add(sentence)
    warnings.warn(f"Plain JAX takes over: {sentence}", RuntimeWarning, stacklevel=2)


def cuda_devices() -> list[Any]:
    """This process's CUDA devices; none without a CUDA backend."""
    try:
        return jax.local_devices(backend="cuda")
    except RuntimeError:
        return []


def every_gpu_has(capability: tuple[int, int]) -> bool:
    """Whether all CUDA devices of this process, if any, are of this compute capability or later."""
    return all(version(gpu.compute_capability) >= capability for gpu in cuda_devices())


def target_name(kernel: str, platform: str) -> str:
    """The custom call target of a kernel on a platform."""
    return f"jax_rnnt_{kernel}_{platform}"


@functools.cache
def runtime_api_version() -> tuple[int, int]:
    """The XLA FFI API version of the installed jaxlib, read from the header that it ships."""
    header = pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header.read_text()))
    return int(found["MAJOR"]), int(found["MINOR"])


def register(platform: str) -> bool:
    """Register a platform's targets once; False where there are no kernels that can be used."""
    if platform not in PLATFORMS or fault(platform) is not None:
        return False
    return _register(platform)


def register_or_warn(platform: str) -> None:
    """Register a platform's targets once, whatever devices are here, or warn why it cannot."""
    if (reason := _installed_fault(platform)) is None:
        _register(platform)
    else:
        warn_once(_sentence(platform, reason))


@functools.cache
def _load(platform: str) -> _Loaded:
    name = f"jax_rnnt.{PLATFORMS[platform][0]}"
    spec = importlib.util.find_spec(name)
    if spec is None:
        return _Loaded(None)
    try:
        if spec.origin is not None and is_cut_off(pathlib.Path(spec.origin)):
            raise ImportError("the file is cut off")
        return _Loaded(importlib.import_module(name))
    except (ImportError, OSError) as error:
        why = f"{spec.origin} does not load ({error}); reinstall jax_rnnt, or build it here"
        return _Loaded(None, f"{why} with {_BUILD}")


def _register(platform: str) -> bool:
    module = native_module(platform)
    if module is None:
        return False
    with _lock:
        for kernel, handler in module.registrations().items():
            target = target_name(kernel, platform)
            if target not in _registered:
                jax.ffi.register_ffi_target(target, handler, platform=PLATFORMS[platform][1])
                jax.ffi.register_ffi_target_as_batch_partitionable(target)
                _registered.add(target)
    return True


def _sentence(platform: str, reason: str) -> str:
    return f"jax_rnnt's kernels for {platform} cannot be used here: {reason}."


def _installed_fault(platform: str) -> str | None:
    module = native_module(platform)
    return _load(platform).fault if module is None else _api_fault(module)


def _api_fault(module: ModuleType) -> str | None:
    built, here = tuple(module.ffi_api_version()), runtime_api_version()
    if built[0] == here[0] and built[1] <= here[1]:
        return None
    return (
        f"they were compiled for XLA FFI API {built[0]}.{built[1]} (jaxlib "
        f"{module.jaxlib_version()}), but jaxlib {importlib.metadata.version('jaxlib')} here has "
        f"{here[0]}.{here[1]}; install jaxlib>={module.jaxlib_version()}, or build jax_rnnt here "
        f"with {_BUILD}"
    )


def _devices_fault(module: ModuleType) -> str | None:
    gpus = [Gpu(d.device_kind, d.compute_capability) for d in cuda_devices()]
    if not gpus:  # the program is lowered for another machine
        return None
    build = Build(module.architectures(), tuple(module.toolkit_version()))
    reason = why_not(gpus, build, tuple(module.driver_version()))
    return None if reason is None else f"{reason}; build jax_rnnt here with {_BUILD}"
