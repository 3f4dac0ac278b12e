"""`python -m jax_rnnt`: what is installed, and what each device here would use."""

import jax
import jaxlib

from jax_rnnt import __version__, _ffi


def _describe(platform: str) -> str:
    try:
        module = _ffi.native_module(platform)
    except ImportError as error:
        return f"does not load: {error}"
    if module is None:
        return "not built"
    built = ".".join(map(str, module.ffi_api_version()))
    text = f"built with jaxlib {module.jaxlib_version()} (FFI API {built})"
    if platform == "cpu":
        return f"{text}, instruction set {module.instruction_set()}"
    return f"{text}, CUDA {module.cuda_version()}, architectures {module.architectures()}"


def _implementation(platform: str) -> str:
    name = (
        "cuda"
        if platform == "gpu" and "cuda" in jax.devices("gpu")[0].client.platform_version.lower()
        else platform
    )
    try:
        return "native" if _ffi.register(name) else "reference (no kernels for it)"
    except (RuntimeError, ImportError) as error:
        return f"none: {error}"


def main() -> None:
    here = ".".join(map(str, _ffi.runtime_api_version()))
    print(f"jax_rnnt        {__version__}")
    print(f"JAX             {jax.__version__}, jaxlib {jaxlib.__version__} (FFI API {here})")
    print(f"CPU kernels     {_describe('cpu')}")
    print(f"CUDA kernels    {_describe('cuda')}")
    for device in jax.local_devices():
        print(f"{device!s:<15} {device.device_kind}: {_implementation(device.platform)}")


if __name__ == "__main__":
    main()
