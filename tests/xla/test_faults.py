"""Kernels that were built but cannot be used here: one sentence each, and plain JAX answers."""

import importlib.machinery
import importlib.util
import itertools
import math
import pathlib
import re
import shutil
import tomllib
import types
import warnings

import jaxlib
import pytest
from support import PLATFORM, run_python

import jax_rnnt
from jax_rnnt._xla import ffi, oldest_jax
from jax_rnnt._xla.architectures import Build, Gpu, way_to_run, why_not
from jax_rnnt._xla.elf import is_cut_off

ROOT = pathlib.Path(__file__).parents[2]
_numbers_of_symbols = itertools.count(101)


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(ffi, "_warned", set())
    monkeypatch.setattr(ffi, "_registered", set())


def _uniform_loss(**options) -> tuple[float, float]:
    """A loss of a shape that nobody has compiled yet, and what it should be."""
    V = next(_numbers_of_symbols)
    return float(jax_rnnt.rnnt_loss_from_logits([[[0.0] * V]], [], 1, 0, **options)), math.log(V)


def _module(**overrides):
    """Kernels compiled for XLA FFI API 0.1, which every JAX here has, for 8.0, with CUDA 13.0."""

    def registrations():
        raise AssertionError("kernels that cannot be used were asked for their handlers")

    functions = {
        "ffi_api_version": lambda: (0, 1),
        "jaxlib_version": lambda: "9.9.9",
        "registrations": registrations,
        "architectures": lambda: "80-real",
        "toolkit_version": lambda: (13, 0),
        "driver_version": lambda: (13, 0),
    }
    return types.SimpleNamespace(**(functions | overrides))


@pytest.fixture
def of_another_jax(monkeypatch):
    """Kernels compiled for XLA FFI API 0.9 in a JAX that has 0.4."""
    module = _module(ffi_api_version=lambda: (0, 9))
    monkeypatch.setattr(ffi, "native_module", lambda platform: module)
    monkeypatch.setattr(ffi, "runtime_api_version", lambda: (0, 4))


def assert_plain_jax_answers(sentence: str) -> None:
    """One warning, the right cost, and the sentence for whoever insists."""
    with pytest.warns(RuntimeWarning, match=sentence) as caught:
        cost, expected = _uniform_loss()
    assert cost == pytest.approx(expected)
    assert len(caught) == 1
    assert str(caught[0].message).count("\n") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost, expected = _uniform_loss()
    assert cost == pytest.approx(expected)
    with pytest.raises(NotImplementedError, match=f"implementation='native': .*{sentence}"):
        _uniform_loss(implementation="native")


@pytest.mark.parametrize("here", [(0, 4), (0, 8), (1, 9)])
def test_kernels_for_a_newer_jax(of_another_jax, monkeypatch, here):
    monkeypatch.setattr(ffi, "runtime_api_version", lambda: here)
    assert_plain_jax_answers(
        rf"compiled for XLA FFI API 0\.9 \(jaxlib 9\.9\.9\), but jaxlib {jaxlib.__version__} here "
        rf"has {here[0]}\.{here[1]}; install jaxlib>=9\.9\.9"
    )


def test_what_was_exported_is_told_too(of_another_jax):
    with pytest.warns(RuntimeWarning, match=r"compiled for XLA FFI API 0\.9") as caught:
        jax_rnnt.register_custom_calls()
    assert len(caught) == 2  # a sentence for each platform
    assert not ffi._registered


@pytest.mark.parametrize("here", [(0, 9), (0, 10)])
def test_kernels_for_this_jax_or_an_older_one_are_taken(of_another_jax, monkeypatch, here):
    monkeypatch.setattr(ffi, "runtime_api_version", lambda: here)
    assert ffi.fault("cpu") is None


_LIBRARY = pathlib.Path(importlib.util.find_spec("numpy._core._multiarray_umath").origin or "")


@pytest.mark.parametrize("kept", [12, 100, 4096, 0.5, 0.95])
def test_a_library_that_is_cut_off(kept, tmp_path):
    whole = _LIBRARY.read_bytes()
    cut_off = tmp_path / "cut_off.so"
    cut_off.write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])
    assert is_cut_off(cut_off)
    assert not is_cut_off(_LIBRARY)


def test_what_is_no_library_is_left_to_the_loader(tmp_path):
    text = tmp_path / "text.so"
    text.write_text("nothing")
    assert not is_cut_off(text)


@pytest.mark.parametrize(("name", "kept"), [("cpu", 4096), ("cuda", 0)])
def test_a_module_that_does_not_load(name, kept, tmp_path):
    """A copy of the package, in it a module that is cut off."""
    package = tmp_path / "jax_rnnt"
    source = pathlib.Path(jax_rnnt.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    broken = package / f"_{name}{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    broken.write_bytes(_LIBRARY.read_bytes()[:kept])
    out = run_python(
        f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in type(f).__module__]
import jax_rnnt
from jax_rnnt._xla import ffi
assert jax_rnnt.__file__.startswith({str(tmp_path)!r}), jax_rnnt.__file__
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jax_rnnt.register_custom_calls()
    print(*(warning.message for warning in caught), sep="\\n")
    print(jax_rnnt.rnnt_loss_from_logits([[[0.0, 0.0]]], [], 1, 0))
if {name!r} == "cpu":
    try:
        jax_rnnt.rnnt_loss_from_logits([[[0.0] * 3]], [], 1, 0, implementation="native")
    except NotImplementedError as error:
        print(error)
from jax_rnnt.__main__ import main
main()
""",
        JAX_PLATFORMS="cpu",
    )
    sentence = f"jax_rnnt's kernels for {name} cannot be used here: {broken} does not load ("
    lines = out.splitlines()
    assert lines[0].startswith(f"Plain JAX takes over: {sentence}")
    assert float(lines[1]) == pytest.approx(math.log(2))  # and nothing is said a second time
    said = [line for line in lines[2:] if sentence in line]
    assert len(said) == (2 if name == "cpu" else 1)  # to who insists, and by the module


H100 = Gpu("NVIDIA H100", "9.0")


@pytest.mark.parametrize(
    ("capability", "architectures", "way"),
    [
        ("9.0", "90", "machine code"),
        ("9.0", "90-real", "machine code"),
        ("9.0", "90-virtual", "PTX"),
        ("9.0", "80-virtual 90-real", "machine code"),
        ("9.0", "80-real", None),
        ("9.0", "80", "PTX"),
        ("9.0", "75-real 80-real 100", None),
        ("8.6", "75-real 80-real 90", "machine code"),
        ("8.6", "86-real", "machine code"),
        ("8.0", "86-real", None),
        ("7.0", "75-real 80", None),
        ("12.1", "75-real 120", "machine code"),
        ("13.0", "75-real 120", "PTX"),
        ("10.3", "90 100-real", "machine code"),
        ("9.0", "90a-real", "machine code"),
        ("10.0", "90a", None),
        ("10.3", "100a", None),
        ("10.3", "100f-real", "machine code"),
        ("11.0", "100f", None),
        ("9.0", "native", None),
        ("9.0", "", None),
    ],
)
def test_way_to_run(capability, architectures, way):
    assert way_to_run(capability, architectures) == way


@pytest.mark.parametrize(
    ("gpus", "architectures", "driver", "reason"),
    [
        ([H100], "90", (13, 0), None),
        ([H100], "90", (13, 2), None),
        ([H100], "80-virtual", (13, 1), None),
        ([], "80-real", (0, 0), None),
        ([H100], "80-real", (13, 1), r"architectures 80-real.*9\.0 \(NVIDIA H100\)"),
        ([H100, Gpu("Tesla T4", "7.5")], "80", (13, 1), r"7\.5 \(Tesla T4\)"),
        ([H100], "90", (12, 8), r"compiled with CUDA 13\.1, and the driver here knows CUDA 12\.8"),
        ([H100], "80", (13, 0), r"compiled with CUDA 13\.1, and the driver here knows CUDA 13\.0"),
    ],
)
def test_why_not(gpus, architectures, driver, reason):
    toolkit = (13, 0) if reason is None else (13, 1)
    said = why_not(gpus, Build(architectures, toolkit), driver)
    assert (said is None) if reason is None else re.search(reason, said or "")


def test_a_gpu_that_the_kernels_were_not_compiled_for(monkeypatch):
    device = types.SimpleNamespace(device_kind="NVIDIA H100", compute_capability="9.0")
    monkeypatch.setattr(ffi, "native_module", lambda platform: _module())
    monkeypatch.setattr(ffi, "cuda_devices", lambda: [device])
    assert re.search(r"for cuda .* architectures 80-real", ffi.fault("cuda") or "")
    assert not ffi.register("cuda")
    assert ffi.fault("cpu") is None
    if PLATFORM == "cuda":
        assert_plain_jax_answers("architectures 80-real")


def test_lowering_for_gpus_elsewhere_asks_for_none_here(monkeypatch):
    monkeypatch.setattr(ffi, "native_module", lambda platform: _module())
    monkeypatch.setattr(ffi, "cuda_devices", list)
    assert ffi.fault("cuda") is None


def test_an_old_jax_is_refused_in_one_sentence():
    out = run_python("""
import jax
jax.__version__, jax.__version_info__ = "0.8.2", (0, 8, 2)
try:
    import jax_rnnt
except ImportError as error:
    print(error)
""")
    assert out.strip() == (
        "jax_rnnt needs JAX 0.8.3 or newer, and this is JAX 0.8.2: pip install 'jax>=0.8.3'."
    )


def test_the_oldest_jax_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = oldest_jax.OLDEST
    assert f"jax>={oldest}" in project["project"]["dependencies"]
    assert f"jaxlib=={oldest}" in project["build-system"]["requires"]
    assert f"set(OLDEST_JAXLIB {oldest})" in (ROOT / "CMakeLists.txt").read_text()
