"""`python -m jax_rnnt`: what is installed, and what each device here would use."""

import importlib.metadata

import jax

from jax_rnnt import __version__
from jax_rnnt._xla import ffi
from jax_rnnt._xla.architectures import way_to_run
from jax_rnnt.rows import joint_fused


def _kernels(platform: str) -> str:
    module = ffi.native_module(platform)
    if module is None:
        return ffi.fault(platform) or "not built"
    api = ".".join(map(str, module.ffi_api_version()))
    text = f"built with jaxlib {module.jaxlib_version()} (FFI API {api})"
    if platform == "cpu":
        text += f", instruction set {module.instruction_set()}"
    else:
        toolkit = ".".join(map(str, module.toolkit_version()))
        text += f", CUDA {toolkit}, architectures {module.architectures()}"
    return "; ".join(filter(None, (text, ffi.fault(platform))))


def _implementation(device) -> str:
    platform = device.platform
    if platform == "gpu":
        platform = "cuda" if "cuda" in device.client.platform_version.lower() else "rocm"
    if not ffi.register(platform):
        return "reference (no kernels for it here)"
    module = ffi.native_module(platform)
    if platform != "cuda" or module is None:
        return "native"
    capability = device.compute_capability
    way = way_to_run(capability, module.architectures())
    return f"native, {way} for {capability}, joint by {_joint(joint_fused.capability())}"


def _joint(capability: int | None) -> str:
    if capability is None:
        return "tiles of plain JAX"
    return "the fused kernels of {}.{}".format(*divmod(capability, 10))


def main() -> None:
    jaxlib = importlib.metadata.version("jaxlib")
    api = ".".join(map(str, ffi.runtime_api_version()))
    print(f"jax_rnnt        {__version__}")
    print(f"JAX             {jax.__version__}, jaxlib {jaxlib} (FFI API {api})")
    print(f"CPU kernels     {_kernels('cpu')}")
    print(f"CUDA kernels    {_kernels('cuda')}")
    for device in jax.local_devices():
        print(f"{device!s:<15} {device.device_kind}: {_implementation(device)}")


if __name__ == "__main__":
    main()
