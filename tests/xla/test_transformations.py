"""Every transformation of JAX gives what the plain call gives."""

import concurrent.futures
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from support import IMPLEMENTATIONS, Problem, needs_native, precision, ragged, run_python
from tolerances import assert_costs, assert_gradients, assert_same_bits

import jax_rnnt


@pytest.fixture
def problem(rng) -> Problem:
    return ragged(rng, (6,), 4, 3, 5)


@pytest.fixture
def loss(implementation):
    return functools.partial(jax_rnnt.rnnt_loss_from_logits, implementation=implementation)


@pytest.fixture(params=[p for p in IMPLEMENTATIONS if p.id == "native"])
def kernels(request):
    """The loss by kernels alone, where JAX transforms plain JAX by rules of its own."""
    return functools.partial(jax_rnnt.rnnt_loss_from_logits, implementation=request.param)


def _expected(problem: Problem, cotangents=None) -> oracle.Result:
    return oracle.loss(*problem, from_logits=True, cotangents=cotangents)


def _total(loss):
    return lambda *arguments: loss(*arguments).sum()


def test_value_and_grad_are_value_and_are_grad(loss, problem):
    expected = _expected(problem)
    value, gradients = jax.jit(jax.value_and_grad(_total(loss)))(*problem)
    assert_costs(value, expected.costs.sum())
    assert_gradients(gradients, expected.gradients)
    assert_gradients(jax.jit(jax.grad(_total(loss)))(*problem), expected.gradients)


def test_gradients_skip_labels_and_lengths(kernels, problem):
    gradients = jax.jit(jax.grad(_total(kernels), argnums=(0, 1, 2, 3), allow_int=True))(*problem)
    assert_gradients(gradients[0], _expected(problem).gradients)
    assert all(g.dtype == jax.dtypes.float0 for g in gradients[1:])


def test_vmap_of_everything(loss, problem):
    both = jax.jit(lambda *x: (jax.vmap(loss)(*x), jax.vmap(jax.grad(loss))(*x)))
    costs, gradients = both(*problem)
    assert_costs(costs, _expected(problem).costs)
    assert_gradients(gradients, _expected(problem).gradients)


def test_grad_of_vmap(kernels, problem):
    gradients = jax.jit(jax.grad(lambda *x: jax.vmap(kernels)(*x).sum()))(*problem)
    assert_gradients(gradients, _expected(problem).gradients)


@pytest.mark.parametrize("axis", [1, 3])
def test_vmap_over_any_axis(kernels, problem, axis):
    rows = np.moveaxis(problem.rows, 0, axis)
    run = jax.jit(jax.vmap(kernels, in_axes=(axis, 0, 0, 0)))
    assert_costs(run(rows, *problem[1:]), _expected(problem).costs)


def test_vmap_of_logits_alone(loss, problem):
    one = [x[0] for x in problem[1:]]
    run = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None, None, None)))
    costs, gradients = run(problem.rows, *one)
    shared = problem._replace(
        **{key: np.stack([x] * 6) for key, x in zip(Problem._fields[1:], one, strict=True)}
    )
    assert_costs(costs, _expected(shared).costs)
    assert_gradients(gradients, _expected(shared).gradients)


@pytest.mark.parametrize("mapped", ["labels", "frames_lengths", "labels_lengths"])
def test_vmap_of_all_but_logits_sums_their_gradients(kernels, problem, mapped):
    in_axes = [0 if name == mapped else None for name in Problem._fields]
    arguments = [x if name == mapped else x[0] for name, x in problem._asdict().items()]
    arguments[3] = np.full_like(arguments[3], 2) if mapped == "labels" else arguments[3]

    def total(*x):
        return jax.vmap(kernels, in_axes=in_axes)(*x).sum()

    gradient = jax.jit(jax.grad(total))(*arguments)
    spread = Problem(*(x if a == 0 else np.stack([x] * 6) for x, a in zip(arguments, in_axes)))
    assert_gradients(gradient, _expected(spread).gradients.sum(0), scale=6)


def test_nested_vmap(kernels, rng):
    problem = ragged(rng, (2, 3, 2), 3, 3, 4)
    run = jax.vmap(jax.vmap(kernels), in_axes=(1, 1, 1, 1), out_axes=1)
    assert_costs(jax.jit(run)(*problem), _expected(problem).costs)
    gradients = jax.jit(jax.grad(lambda *x: run(*x).sum()))(*problem)
    assert_gradients(gradients, _expected(problem).gradients)


def test_jacrev_is_one_gradient_per_cost(loss, problem):
    jacobian = jax.jit(jax.jacrev(loss))(*problem)
    expected = np.zeros(jacobian.shape)
    expected[np.arange(6), np.arange(6)] = _expected(problem).gradients
    assert_gradients(jacobian, expected)


def test_vmap_of_the_parts(implementation, problem):
    """Rows and lattices apart, mapped over some of their operands."""

    def one(logits, frames, labels):
        row_labels = jnp.broadcast_to(jnp.asarray([1, 2, -1], jnp.int32), (4, 3))
        arcs = jax_rnnt.log_softmax_pick(logits, row_labels, implementation=implementation)
        return jax_rnnt.lattice_cost(*arcs, frames, labels, implementation=implementation)

    costs = jax.jit(jax.vmap(one, (0, None, 0)))(problem.rows, 4, problem.labels_lengths)
    same = problem._replace(
        labels=np.tile(np.array([1, 2], np.int32), (6, 1)),
        frames_lengths=np.full(6, 4, np.int32),
    )
    assert_costs(costs, _expected(same).costs)


def test_pmap(loss, problem):
    devices = min(6, jax.local_device_count())
    problem = Problem(*(x[:devices] for x in problem))
    costs, gradients = jax.pmap(jax.value_and_grad(loss))(*problem)
    assert_costs(costs, _expected(problem).costs)
    assert_gradients(gradients, _expected(problem).gradients)


def test_checkpoint(loss, problem):
    gradients = jax.jit(jax.grad(_total(jax.checkpoint(loss))))(*problem)
    assert_gradients(gradients, _expected(problem).gradients)


def test_scan(loss, problem):
    def total(rows):
        def step(carry, x):
            return (carry + loss(*x), None)

        return jax.lax.scan(step, jnp.float32(0), (rows, *problem[1:]))[0]

    value, gradients = jax.jit(jax.value_and_grad(total))(problem.rows)
    assert_costs(value, _expected(problem).costs.sum())
    assert_gradients(gradients, _expected(problem).gradients)


def test_cond(kernels, problem):
    def total(rows, wanted):
        def none(rows):
            return jnp.zeros(6, jnp.float32)

        return jax.lax.cond(wanted, lambda rows: kernels(rows, *problem[1:]), none, rows).sum()

    run = jax.jit(jax.value_and_grad(total))
    for taken in (True, False):
        value, gradients = run(problem.rows, taken)
        assert_costs(value, _expected(problem).costs.sum() * taken)
        assert_gradients(gradients, _expected(problem).gradients * taken)


def test_while_loop(kernels, problem):
    def total(rows):
        def add(_, carry):
            return carry + kernels(rows, *problem[1:])

        return jax.lax.fori_loop(0, jnp.int32(3), add, jnp.zeros(6, jnp.float32))

    assert_costs(jax.jit(total)(problem.rows), 3 * _expected(problem).costs)


def test_donated_logits_may_hold_the_gradients(kernels, problem):
    run = jax.jit(jax.value_and_grad(_total(kernels)), donate_argnums=0)
    rows = jnp.array(problem.rows)
    value, gradients = run(rows, *problem[1:])
    assert rows.is_deleted()
    assert_costs(value, _expected(problem).costs.sum())
    assert_gradients(gradients, _expected(problem).gradients)


def test_logits_that_are_not_donated_stay(kernels, problem):
    rows = jnp.array(problem.rows)
    jax.block_until_ready(jax.jit(jax.grad(_total(kernels)))(rows, *problem[1:]))
    assert_same_bits(rows, problem.rows)


def test_ahead_of_time_compilation(kernels, problem):
    run = jax.jit(jax.value_and_grad(_total(kernels))).lower(*problem).compile()
    value, gradients = run(*problem)
    assert_costs(value, _expected(problem).costs.sum())
    assert_gradients(gradients, _expected(problem).gradients)


def test_debug_nans_is_silent_on_valid_inputs(loss, problem):
    rows = np.where(problem.inside[..., None], problem.rows, np.nan)
    rows[0, 0, 0, 3] = -np.inf
    rows[1, problem.frames_lengths[1] - 1, problem.labels_lengths[1]] = -np.inf
    expected = _expected(problem._replace(rows=rows))
    assert expected.costs[1] == np.inf
    rows = jnp.asarray(rows)
    with jax.debug_nans(True):
        eager = loss(rows, *problem[1:])
        gradients = jax.grad(_total(loss))(rows, *problem[1:])
        jitted = jax.jit(loss)(rows, *problem[1:])
    assert_costs(eager, expected.costs)
    assert_costs(jitted, expected.costs)
    assert_gradients(gradients, expected.gradients)


@pytest.mark.parametrize("jit", [False, True])
def test_debug_nans_finds_a_nan_cost(kernels, problem, jit):
    problem.rows[2, 0, 0] = np.nan
    run = jax.jit(kernels) if jit else kernels
    arguments = [jnp.asarray(x) for x in problem]
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="invalid value"):
        run(*arguments)


def test_second_derivatives_of_the_reference(rng):
    problem = ragged(rng, (2,), 3, 3, 4)
    problem = problem._replace(rows=problem.rows.astype(np.float64))
    direction, step = rng.standard_normal(problem.rows.shape), 1e-5
    loss = functools.partial(jax_rnnt.rnnt_loss_from_logits, implementation="reference")
    with precision("float64"):
        gradient = jax.grad(lambda rows: loss(rows, *problem[1:]).sum())
        product = jax.jit(jax.grad(lambda rows: jnp.vdot(gradient(rows), direction)))(problem.rows)
    above, below = (
        _expected(problem._replace(rows=problem.rows + sign * step * direction)).gradients
        for sign in (1, -1)
    )
    np.testing.assert_allclose(product, (above - below) / (2 * step), atol=1e-8)


@needs_native
def test_second_derivatives_of_the_kernels_are_refused(problem):
    loss = functools.partial(jax_rnnt.rnnt_loss_from_logits, implementation="native")
    gradient = jax.grad(lambda rows: loss(rows, *problem[1:]).sum())
    with pytest.raises(NotImplementedError, match=r"implementation='reference'"):
        jax.grad(lambda rows: (gradient(rows) ** 2).sum())(jnp.asarray(problem.rows))


@needs_native
def test_many_calls_in_one_program(problem):
    """A thread pool whose workers wait for one another would hang here."""
    loss = functools.partial(jax_rnnt.rnnt_loss_from_logits, implementation="native")

    @jax.jit
    def run(rows):
        return jnp.stack([loss(rows + jnp.float32(i), *problem[1:]) for i in range(32)])

    for _ in range(5):
        assert_costs(run(problem.rows), np.tile(_expected(problem).costs, (32, 1)))


def test_threads(kernels, problem, rng):
    run = jax.jit(jax.value_and_grad(_total(kernels)))
    inputs = [problem.rows + rng.standard_normal(problem.rows.shape, np.float32) for _ in range(4)]
    alone = [run(rows, *problem[1:]) for rows in inputs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: run(inputs[i % 4], *problem[1:]), range(64)))
    for i, (value, gradients) in enumerate(together):
        assert_same_bits(value, alone[i % 4][0])
        assert_same_bits(gradients, alone[i % 4][1])


def _export(function, arguments, **options) -> jax.export.Exported:
    exporter = jax.export.export(
        jax.jit(function), disabled_checks=jax_rnnt.custom_call_checks(), **options
    )
    return exporter(*arguments)


def test_export_and_reload_in_a_fresh_process(implementation, problem, tmp_path):
    loss = functools.partial(jax_rnnt.rnnt_loss_from_logits, implementation=implementation)
    exported = _export(jax.value_and_grad(_total(loss)), problem)
    (tmp_path / "exported").write_bytes(exported.serialize())
    np.savez(tmp_path / "arguments.npz", *problem)
    run_python(f"""
import jax, numpy as np, pathlib, jax_rnnt
folder = pathlib.Path({str(tmp_path)!r})
jax_rnnt.register_custom_calls()
exported = jax.export.deserialize(bytearray((folder / "exported").read_bytes()))
arguments = np.load(folder / "arguments.npz")
value, gradients = exported.call(*(arguments[key] for key in arguments.files))
np.savez(folder / "results.npz", value=value, gradients=gradients)
""")
    results = np.load(tmp_path / "results.npz")
    expected = _expected(problem)
    assert_costs(results["value"], expected.costs.sum())
    assert_gradients(results["gradients"], expected.gradients)


def test_export_with_symbolic_batch_and_frames(implementation, rng):
    loss = functools.partial(jax_rnnt.rnnt_loss_from_logits, implementation=implementation)
    N, T = jax.export.symbolic_shape("N, T")
    shapes = [((N, T, 3, 5), np.float32), *(((N, *rest), np.int32) for rest in ((2,), (), ()))]
    arguments = [jax.ShapeDtypeStruct(*x) for x in shapes]
    exported = _export(lambda *x: (loss(*x), jax.grad(_total(loss))(*x)), arguments)
    for size in ((2, 4), (5, 1)):
        problem = ragged(rng, size[:1], size[1], 3, 5)
        costs, gradients = exported.call(*problem)
        assert_costs(costs, _expected(problem).costs)
        assert_gradients(gradients, _expected(problem).gradients)


@needs_native
def test_export_of_arcs_with_symbolic_batch_and_frames(rng):
    """A beginning has one more number than there are frames, an end that is not given has none."""
    N, T = jax.export.symbolic_shape("N, T")
    weights = [((N, T, 3), np.float32)] * 2 + [((N, T + 1), np.float32)]
    shapes = [*weights, ((N,), np.int32), ((N,), np.int32)]

    def total(blank, label, initial, *lengths):
        arcs = {(1, 0): blank, (2, 1): label}
        return jax_rnnt.arcs_cost(arcs, *lengths, initial=initial).sum()

    function = jax.grad(total, argnums=(0, 1, 2))
    arguments = [jax.ShapeDtypeStruct(*x) for x in shapes]
    exported = _export(function, arguments, platforms=("cpu", "cuda", "tpu"))
    for N, T in ((2, 4), (5, 6)):
        weights = [rng.standard_normal((N, T, 3)).astype(np.float32) for _ in range(2)]
        weights.append(rng.standard_normal((N, T + 1)).astype(np.float32))
        lengths = np.full(N, T, np.int32), np.full(N, 1, np.int32)
        for own, other in zip(exported.call(*weights, *lengths), function(*weights, *lengths)):
            assert np.any(other)
            assert_same_bits(own, other)


def test_export_for_other_platforms(problem):
    exported = _export(
        jax.grad(_total(jax_rnnt.rnnt_loss_from_logits)), problem, platforms=("cpu", "cuda", "tpu")
    )
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert_gradients(exported.call(*problem), _expected(problem).gradients)


def test_persistent_compilation_cache_hits_in_a_second_process(tmp_path):
    program = """
import json, jax, numpy as np, jax_rnnt
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
loss = lambda x: jax_rnnt.rnnt_loss_from_logits(x, [[1, 2]], [4], [2], reduction="sum")
jax.block_until_ready(jax.jit(jax.value_and_grad(loss))(np.zeros((1, 4, 3, 5), np.float32)))
print(json.dumps([events.count(f"/jax/compilation_cache/cache_{x}") for x in ("hits", "misses")]))
"""
    environment = dict(
        JAX_COMPILATION_CACHE_DIR=str(tmp_path),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    first_hits, first_misses = json.loads(run_python(program, **environment))
    hits, misses = json.loads(run_python(program, **environment))
    assert (first_hits, misses) == (0, 0)
    assert hits == first_misses > 0
