import pytest

from jax_rnnt import __main__ as report
from jax_rnnt.rows.joint_capability import SWITCH, choose

ALL = "80-real 90-real 100-real 120"


@pytest.mark.parametrize(
    ("gpus", "compiled", "expected"),
    [
        ([], ALL, None),
        (["7.5"], ALL, None),
        (["8.0"], ALL, 80),
        (["8.9", "8.9"], ALL, 89),
        (["9.0"], ALL, 90),
        (["9.0"], "80-real", 90),  # its own kernels are always compiled
        (["10.3"], ALL, 103),
        (["13.0"], ALL, 130),  # by PTX
        (["8.0", "9.0"], ALL, 86),
        (["8.0", "7.5"], ALL, None),
        (["12.0"], "80-real 90-real", None),
        (["8.0", "12.0"], "80", 86),
        (["8.0", "12.0"], "80-real", None),
    ],
)
def test_the_capability_that_all_gpus_have(gpus, compiled, expected):
    assert choose(gpus, compiled) == expected


@pytest.mark.parametrize(
    ("gpus", "wanted", "expected"),
    [
        (["9.0"], "8.0", 80),
        (["9.0"], "8.6", 86),
        (["9.0"], "9.0", 90),
        (["9.0"], "none", None),
        (["8.9"], "8.6", 86),
        (["8.9", "9.0"], "8.6", 86),
        (["8.7", "10.3"], "8.0", 80),
        (["12.1"], "8.9", 89),
        ([], "8.0", None),
    ],
)
def test_the_switch(gpus, wanted, expected):
    assert choose(gpus, ALL, wanted) == expected


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [
        (["8.0"], "9.0"),
        (["8.0"], "8.6"),
        (["12.0"], "9.0"),
        (["9.0"], "7.5"),
        (["9.0"], "hopper"),
        (["9.0"], ""),
        (["8.9"], "8.0"),  # shared memory of an 8.0
        (["8.9", "9.0"], "8.0"),
        (["12.0"], "10.0"),
    ],
)
def test_a_switch_that_the_gpus_cannot_follow(gpus, wanted):
    with pytest.raises(ValueError, match=f"{SWITCH} must be .* got '{wanted}'"):
        choose(gpus, ALL, wanted)


def test_a_switch_to_kernels_that_are_not_compiled():
    with pytest.raises(ValueError, match=f"{SWITCH} is 8.0, but .* compiled for 80-real"):
        choose(["9.0"], "80-real", "8.0")


def test_what_is_installed_tells_by_which_kernels_a_joint_goes():
    assert report._joint(103) == "the fused kernels of 10.3"
    assert report._joint(None) == "tiles of plain JAX"
