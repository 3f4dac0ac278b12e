"""Whose kernels of the joint the GPUs of a process run, by compute capability.

Those of 9.0 are for 9.0 alone. Those of 8.0 and all others multiply with instructions that every
later GPU has, in as much shared memory as GPUs of that capability have.
"""

from collections.abc import Iterable

from jax_rnnt._xla.architectures import version, way_to_run

# What tests set: a capability ("8.0", "8.6") whose kernels shall run in place of the GPUs' own, or
# "none" for the plain tiles.
SWITCH = "JAX_RNNT_JOINT_CAPABILITY"
_HOPPER = "9.0"
# The capability with the least shared memory: GPUs of several kinds all run its kernels.
_LEAST = "8.6"
# Those whose blocks have more of it (cpp/cuda/joint/target.h), with all minors of the last two.
_WITH_MORE = "8.0", "8.7", "9.0"
_MAJORS_WITH_MORE = 10, 11


def choose(gpus: Iterable[str], compiled: str, wanted: str | None = None) -> int | None:
    """The capability whose kernels all GPUs run, 90 for 9.0; None if there is none.

    Args:
        gpus: their compute capabilities, "9.0".
        compiled: the architectures of the kernels that are not 9.0's, as CMake names them.
        wanted: the value of SWITCH, if it is set.

    Raises:
        ValueError: if `wanted` is neither "none" nor of kernels that all GPUs run: tests must not
            pass on other kernels than they name.
    """
    own = set(gpus)
    if not own or wanted == "none":
        return None
    chosen = next(iter(own)) if len(own) == 1 else _LEAST
    if wanted is not None and wanted != chosen:
        _check(wanted, own)
        chosen = wanted
    if chosen != _HOPPER and not all(
        version(gpu) >= (8, 0) and way_to_run(gpu, compiled) for gpu in own
    ):
        if wanted is not None:
            raise ValueError(f"{SWITCH} is {wanted}, but the kernels are compiled for {compiled}.")
        return None
    major, minor = version(chosen)
    return 10 * major + minor


def _check(wanted, own):
    least = min(own, key=version)
    try:
        fits = wanted != _HOPPER and (8, 0) <= version(wanted) <= version(least)
        fits &= not _has_more(wanted) or all(map(_has_more, own))
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f'{SWITCH} must be "none" or a compute capability from 8.0 to {least} with no more '
            f"shared memory than all GPUs have, and 9.0 only where all are of 9.0, got {wanted!r}."
        )


def _has_more(capability):
    return capability in _WITH_MORE or version(capability)[0] in _MAJORS_WITH_MORE
