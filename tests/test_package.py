"""The package as it is installed, imported and documented."""

import importlib.resources
import subprocess
import sys
import types

import jax
import jaxlib
import pytest
from support import (
    PACKAGE_PARENT,
    PLATFORM,
    assert_examples_are_true,
    needs_native,
    run_python,
)

import jax_rnnt
from jax_rnnt import _ffi
from jax_rnnt._primitive import KERNELS

PUBLIC = [name for name in jax_rnnt.__all__ if callable(getattr(jax_rnnt, name))]


def test_import_starts_no_backend_and_registers_nothing():
    run_python("""
import sys
import jax_rnnt
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert not jax_rnnt._ffi._registered
assert not {"jax_rnnt._cpu", "jax_rnnt._cuda"} & set(sys.modules)
""")


def test_module_tells_what_is_installed():
    done = subprocess.run(
        [sys.executable, "-m", "jax_rnnt"], cwd=PACKAGE_PARENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert jax_rnnt.__version__ in done.stdout
    assert jax.__version__ in done.stdout


@pytest.fixture
def kernels_of_another_jax(monkeypatch):
    """Kernels compiled for XLA FFI API 0.9 that must not be registered, in a JAX that has 0.4."""

    def registrations():
        raise AssertionError("incompatible kernels were asked for their handlers")

    module = types.SimpleNamespace(
        ffi_api_version=lambda: (0, 9),
        jaxlib_version=lambda: "9.9.9",
        registrations=registrations,
    )
    monkeypatch.setattr(_ffi, "native_module", lambda platform: module)
    monkeypatch.setattr(_ffi, "runtime_api_version", lambda: (0, 4))
    monkeypatch.setattr(_ffi, "_registered", set())
    return module


@pytest.mark.parametrize("here", [(0, 4), (0, 8), (1, 9)])
def test_kernels_for_a_newer_jax_are_refused_in_one_sentence(
    kernels_of_another_jax, monkeypatch, here
):
    monkeypatch.setattr(_ffi, "runtime_api_version", lambda: here)
    with pytest.raises(RuntimeError) as caught:
        jax_rnnt.register_custom_calls()
    message = str(caught.value)
    assert "XLA FFI API 0.9" in message
    assert f"jaxlib {jaxlib.__version__} here has {here[0]}.{here[1]}" in message
    assert "install jaxlib>=9.9.9" in message


def test_loss_says_so_too_and_jax_survives(kernels_of_another_jax):
    with pytest.raises(RuntimeError, match=r"compiled for XLA FFI API 0.9"):
        jax_rnnt.rnnt_loss_from_logits([[[0.0, 1.0, 2.0]]], [], 1, 0)
    assert jax.numpy.ones(2).sum() == 2


@pytest.mark.parametrize("here", [(0, 9), (0, 10)])
def test_kernels_for_this_jax_or_an_older_one_are_taken(kernels_of_another_jax, monkeypatch, here):
    monkeypatch.setattr(_ffi, "runtime_api_version", lambda: here)
    _ffi.check_api_version(kernels_of_another_jax)


def test_runtime_api_version_is_read_from_the_installed_jaxlib():
    major, minor = _ffi.runtime_api_version()
    assert major == 0
    assert minor >= 2


def test_without_kernels_the_reference_answers(monkeypatch):
    monkeypatch.setattr(_ffi, "native_module", lambda platform: None)
    arguments = [[[0.0, 1.0, 2.0, 3.0]]], [], 1, 0
    assert "jax_rnnt_" not in _lowered(arguments)
    assert jax_rnnt.rnnt_loss_from_logits(*arguments) == pytest.approx(3.4401897)
    with pytest.raises(NotImplementedError, match=r"implementation='native'.*python -m jax_rnnt"):
        jax_rnnt.rnnt_loss_from_logits(*arguments, blank=1, implementation="native")


@needs_native
def test_where_there_are_kernels_they_answer():
    lowered = _lowered(([[[0.0, 1.0, 2.0, 3.0]]], [], 1, 0))
    assert f"jax_rnnt_pick_forward_columns_{PLATFORM}" in lowered
    assert f"jax_rnnt_lattice_cost_{PLATFORM}" in lowered


def _lowered(arguments) -> str:
    """The program of a loss before XLA optimises it, in which a kernel is a custom call."""
    rows, *rest = arguments
    loss = jax.jit(lambda rows: jax_rnnt.rnnt_loss_from_logits(rows, *rest))
    return loss.lower(jax.numpy.asarray(rows)).as_text()


def test_export_checks_name_every_kernel_on_every_platform():
    checks = {str(check) for check in jax_rnnt.custom_call_checks()}
    assert len(checks) == len(jax_rnnt.custom_call_checks()) == 2 * len(KERNELS)


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_in_docstrings_are_true(name):
    assert_examples_are_true(name, getattr(jax_rnnt, name))


def test_public_names_exist_and_are_documented():
    for name in jax_rnnt.__all__:
        value = getattr(jax_rnnt, name)
        assert name == "__version__" or value.__doc__, name


def test_package_is_typed():
    assert (importlib.resources.files("jax_rnnt") / "py.typed").is_file()
