"""Settings of the whole suite; the default backend of the process is what is tested.

Environment:
    JAX_RNNT_REQUIRE_GPU=1     a process without a GPU is a failure.
    JAX_RNNT_REQUIRE_NATIVE=1  a package without native kernels is a failure.
"""

import os
import pathlib
from collections.abc import Iterator

_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    # Most functions here run once or twice: compiling them is what takes the time.
    "--xla_llvm_disable_expensive_passes": "true",
}
_given = os.environ.get("XLA_FLAGS", "")
_added = [f"{flag}={value}" for flag, value in _FLAGS.items() if flag not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_added]).strip()

import hypothesis  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import support  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile(
    "suite", derandomize=True, deadline=None, database=None, print_blob=True
)
hypothesis.settings.load_profile("suite")


# What depends on JAX itself: `pytest -m jax` runs it, and one in so many tests of the rest. SAMPLE
# divides no number of losses, dtypes or implementations, so that each has its turn.
DEPENDS_ON_JAX = (
    "lattice/test_arcs_transformations.py",
    "losses/joint/test_joint_devices.py",
    "losses/joint/test_joint_options_transformed.py",
    "losses/joint/test_joint_programs.py",
    "losses/joint/test_joint_transformations.py",
    "losses/test_arguments.py",
    "losses/test_pruned_devices.py",
    "losses/test_vectors.py",
    "rows/test_pick_rows_transformed.py",
    "search/test_search_transformed.py",
    "test_package.py",
    "xla",
)
SAMPLE = 11
# Files whose trainings take a minute before their first test: a sample of them is as long as all.
TRAININGS = "speech/test_training.py", "speech/test_runs.py"
# Files that compile the same functions, for one process of several: `--dist loadgroup`.
TOGETHER = (
    ("lattice/test_arcs_edges.py", "lattice/test_arcs_values.py"),
    ("losses/test_biases.py", "losses/test_types.py", "losses/test_windows.py"),
    (
        "losses/test_compact.py",
        "losses/test_edges.py",
        "losses/test_random.py",
        "losses/test_values.py",
    ),
    ("losses/test_tdt.py", "losses/test_tdt_options.py"),
)
# A file whose tests compile nothing in common, and on a GPU thousands of small programs.
SPREAD = "xla/test_handlers.py"
_TESTS = pathlib.Path(__file__).parent
_GROUPS = {_TESTS / path: paths[0] for paths in TOGETHER for path in paths}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "jax: what depends on JAX, and a sample of the rest")
    config.addinivalue_line("markers", "xdist_group: tests that run in one process")


# Rooms whose tests are about this package's kernels and arithmetic, or run little of what they
# compile.
ROOMS = ("fuzz", "lattice", "losses", "rows", "search", "speech")


@pytest.fixture(autouse=True)
def _optimisation(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a CPU, XLA's programs are not optimised in ROOMS, but for what depends on JAX itself.

    They compile in two thirds of the time.
    """
    room = request.path.relative_to(_TESTS).parts[0]
    is_fast = jax.default_backend() == "cpu" and room in ROOMS and "jax" not in request.keywords
    jax.config.update("jax_disable_most_optimizations", is_fast)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Of the 65,530 that Linux gives a process. A compiled program on a CPU takes about 17, and XLA
# crashes where it gets none.
MOST_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs() -> Iterator[None]:
    """Compiled programs of earlier files are dropped once they take much of the process's room."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rest = []
    for item in items:
        path = item.path.relative_to(_TESTS).as_posix()
        group = item.nodeid if path == SPREAD else _GROUPS.get(item.path, path)
        item.add_marker(pytest.mark.xdist_group(group))
        if any(item.path.is_relative_to(_TESTS / path) for path in DEPENDS_ON_JAX):
            item.add_marker("jax")
        elif path not in TRAININGS:
            rest.append(item)
    for item in rest[::SAMPLE]:
        item.add_marker("jax")


def pytest_collection_finish(session: pytest.Session) -> None:
    """With `--dist loadgroup` files stay together, or compile twice what they share."""
    is_grouped = all("@" in item.nodeid for item in session.items)
    if session.config.getoption("loadgroup", False) and not is_grouped:
        pytest.exit("This pytest-xdist does not group tests by this pytest.", returncode=1)


def pytest_sessionstart() -> None:
    backend = jax.default_backend()
    if os.environ.get("JAX_RNNT_REQUIRE_GPU") == "1" and backend != "gpu":
        pytest.exit(f"JAX_RNNT_REQUIRE_GPU=1, but the default backend is {backend}.", returncode=1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=support.IMPLEMENTATIONS)
def implementation(request) -> str:
    return request.param


@pytest.fixture(params=support.WAYS)
def way(request, monkeypatch) -> support.Way:
    """As `implementation`; also None where no kernel is there: primitives run their fallback."""
    if request.param != "fallback":
        return support.Way(request.param, 7)
    monkeypatch.setattr(support.ffi, "native_module", lambda platform: None)
    return support.Way(None, 11)


@pytest.fixture(params=support.LOSSES)
def loss(request) -> support.Loss:
    """Each public loss in each layout, padded arguments in and padded gradients out."""
    return request.param


@pytest.fixture(params=support.LOGITS_LOSSES)
def logits_loss(request) -> support.Loss:
    return request.param


@pytest.fixture(params=support.PADDED_LOSSES)
def padded_loss(request) -> support.Loss:
    return request.param
