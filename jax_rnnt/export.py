"""Custom calls and `jax.export`: allowed where a program is exported, registered where it runs."""

import jax

from jax_rnnt._xla import ffi
from jax_rnnt._xla.primitive import KERNELS


def register_custom_calls() -> None:
    """Register the native targets of every platform whose kernels this installation has.

    Calling a loss does this by itself. Call it before running a computation that was exported with
    `jax.export` elsewhere and reloaded in a process that has not called a loss yet. Kernels that
    cannot be used here, because they do not load or the installed jaxlib is too old for them, are a
    RuntimeWarning that says why, and are not registered.

    Example:
        >>> import jax_rnnt
        >>> jax_rnnt.register_custom_calls()
    """
    for platform in ffi.PLATFORMS:
        ffi.register_or_warn(platform)


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
    return [
        jax.export.DisabledSafetyCheck.custom_call(ffi.target_name(kernel, platform))
        for platform in ffi.PLATFORMS
        for kernel in KERNELS
    ]
