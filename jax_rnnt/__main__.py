"""`python -m jax_rnnt`: what is installed, and what each device here would use."""

import importlib.metadata

import jax

from jax_rnnt import __version__, _ffi


def _kernels(platform: str) -> str:
    try:
        module = _ffi.native_module(platform)
    except ImportError as error:
        return f"do not load: {error}"
    if module is None:
        return "not built"
    api = ".".join(map(str, module.ffi_api_version()))
    text = f"built with jaxlib {module.jaxlib_version()} (FFI API {api})"
    if platform == "cpu":
        return f"{text}, instruction set {module.instruction_set()}"
    return f"{text}, CUDA {module.cuda_version()}, architectures {module.architectures()}"


def _implementation(device) -> str:
    platform = device.platform
    if platform == "gpu":
        platform = "cuda" if "cuda" in device.client.platform_version.lower() else "rocm"
    try:
        return "native" if _ffi.register(platform) else "reference (no kernels for it here)"
    except (RuntimeError, ImportError) as error:
        return f"none: {error}"


def main() -> None:
    jaxlib = importlib.metadata.version("jaxlib")
    api = ".".join(map(str, _ffi.runtime_api_version()))
    print(f"jax_rnnt        {__version__}")
    print(f"JAX             {jax.__version__}, jaxlib {jaxlib} (FFI API {api})")
    print(f"CPU kernels     {_kernels('cpu')}")
    print(f"CUDA kernels    {_kernels('cuda')}")
    for device in jax.local_devices():
        print(f"{device!s:<15} {device.device_kind}: {_implementation(device)}")


if __name__ == "__main__":
    main()
