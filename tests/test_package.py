"""The package as it is installed, imported and documented."""

import importlib.metadata
import importlib.resources
import inspect
import pathlib
import subprocess
import sys

import jax
import pytest
from support import (
    PACKAGE_PARENT,
    PLATFORM,
    assert_examples_are_true,
    needs_native,
    run_python,
)

import jax_rnnt
from jax_rnnt._xla import ffi
from jax_rnnt._xla.primitive import KERNELS

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = [name for name in jax_rnnt.__all__ if inspect.isfunction(getattr(jax_rnnt, name))]


def test_import_starts_no_backend_and_registers_nothing():
    run_python("""
import sys
import jax_rnnt
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert not jax_rnnt._xla.ffi._registered
assert not {"jax_rnnt._cpu", "jax_rnnt._cuda"} & set(sys.modules)
""")


def test_module_tells_what_is_installed():
    done = subprocess.run(
        [sys.executable, "-m", "jax_rnnt"], cwd=PACKAGE_PARENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert jax_rnnt.__version__ in done.stdout
    assert jax.__version__ in done.stdout


def test_runtime_api_version_is_read_from_the_installed_jaxlib():
    major, minor = ffi.runtime_api_version()
    assert major == 0
    assert minor >= 2


def test_without_kernels_the_reference_answers(monkeypatch):
    monkeypatch.setattr(ffi, "native_module", lambda platform: None)
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


def test_version_is_the_same_everywhere():
    assert f"\n## {jax_rnnt.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    try:
        installed = importlib.metadata.version("jax_rnnt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("jax_rnnt is not installed but on the path")
    assert installed == jax_rnnt.__version__
