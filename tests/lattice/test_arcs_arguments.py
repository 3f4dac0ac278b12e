"""What may be passed to arcs_cost, and what the complaint says when something else is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import needs_native
from tolerances import assert_same_bits

import jax_rnnt

BLANK, LABEL = np.full((2, 2, 3, 2), -0.5, np.float32)


def _arguments(**changed) -> dict:
    """Two sequences, T = 3, U = 2."""
    given = dict(
        arcs={(1, 0): BLANK, (0, 1): LABEL},
        frames_lengths=np.array([3, 2], np.int32),
        labels_lengths=np.array([1, 0], np.int32),
    )
    return {**given, **changed}


def _cost(**arguments):
    return jax_rnnt.arcs_cost(**_arguments(**arguments))


@pytest.mark.parametrize("arcs", [[BLANK, LABEL], BLANK, None, ((1, 0), BLANK)], ids=type)
def test_arcs_must_be_a_dict(arcs):
    with pytest.raises(
        TypeError, match=r"^arcs must be a dict from \(dt, du\) to log-weights, got"
    ):
        _cost(arcs=arcs)


def test_arcs_must_not_be_empty():
    with pytest.raises(ValueError, match=r"^arcs must not be empty\."):
        _cost(arcs={})


@pytest.mark.parametrize("key", [1, "10", (1,), (1, 0, 0), None])
def test_keys_must_be_pairs(key):
    message = rf"^arcs' keys must be pairs of integers \(dt, du\), got {re.escape(repr(key))}"
    with pytest.raises(TypeError, match=message):
        _cost(arcs={key: BLANK})


@pytest.mark.parametrize("key", [(1.0, 0), (1, "0"), (None, 1)])
def test_keys_must_be_of_integers(key):
    with pytest.raises(TypeError, match=r"^dt and du of arcs' keys must be an integer, got"):
        _cost(arcs={key: BLANK})


@pytest.mark.parametrize("key", [(0, 0), (-1, 0), (1, -1)])
def test_keys_must_go_on(key):
    message = rf"^arcs' keys must not be negative, nor both zero, got {re.escape(str(key))}"
    with pytest.raises(ValueError, match=message):
        _cost(arcs={(1, 0): BLANK, key: LABEL})


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64])
def test_weights_must_be_floats(dtype):
    with pytest.raises(TypeError, match=r"^arcs\[\(0, 1\)\] must be of dtype float32"):
        _cost(arcs={(1, 0): BLANK, (0, 1): LABEL.astype(dtype)})


@pytest.mark.parametrize("shape", [(2, 3, 1), (3, 2), (2, 3, 2, 1)])
def test_weights_must_be_of_one_shape(shape):
    message = r"^arcs\[\(0, 1\)\] must have shape \(2, 3, 2\) \(as arcs\[\(1, 0\)\]\), got"
    with pytest.raises(ValueError, match=message):
        _cost(arcs={(0, 1): np.zeros(shape, np.float32), (1, 0): BLANK})


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 2), (2, 3, 0)])
def test_weights_must_have_frames_and_labels(shape):
    message = r"^arcs\[\(1, 0\)\] must be \(\.\.\., T, U\) with T and U at least 1, got"
    with pytest.raises(ValueError, match=message):
        _cost(arcs={(1, 0): np.zeros(shape, np.float32)})


def test_compact_weights_have_one_dimension():
    with pytest.raises(ValueError, match=r"^arcs\[\(1, 0\)\] must be \(S,\) in the compact form"):
        _cost(compact=True)


@pytest.mark.parametrize("last", ["10", 1, 0.5])
def test_last_must_be_a_collection(last):
    with pytest.raises(TypeError, match=r"^last must be a collection of keys of arcs, got"):
        _cost(last=last)


@pytest.mark.parametrize("last", [(1, 0), [(2, 0)], [(1, 0), None], {(0, 1, 0)}])
def test_last_must_hold_keys_of_arcs(last):
    message = r"^last must hold keys of arcs, \(1, 0\), \(0, 1\): got"
    with pytest.raises(ValueError, match=message):
        _cost(last=last)


@pytest.mark.parametrize(
    "last", [[(1, 0)], {(1, 0)}, ((0, 1), (1, 0)), {(1, 0): None}.keys(), [(np.int64(1), 0)]]
)
def test_last_may_be_any_collection(last):
    """RNN-T's labels reach T_n in no case."""
    assert_same_bits(_cost(last=last), _cost())


def test_nothing_may_be_last():
    assert np.all(_cost(last=[]) == np.inf)


@pytest.mark.parametrize("end", ["initial", "final"])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 4, 1), ()])
def test_a_beginning_and_an_end_have_a_weight_for_each_row_of_nodes(end, shape):
    message = rf"^{end} must have shape \(2, 4\) \(one for each of 0, 1, \.\.\., T\), got"
    with pytest.raises(ValueError, match=message):
        _cost(**{end: np.zeros(shape, np.float32)})


@pytest.mark.parametrize("end", ["initial", "final"])
def test_a_beginning_and_an_end_must_be_floats(end):
    with pytest.raises(TypeError, match=f"^{end} must be of dtype float32"):
        _cost(**{end: np.zeros((2, 4), np.int32)})


@pytest.mark.parametrize("end", ["initial", "final"])
def test_the_compact_form_has_no_given_beginning_or_end(end):
    arcs = {(1, 0): np.zeros(8, np.float32)}
    with pytest.raises(ValueError, match=f"^{end} is not for the compact form"):
        _cost(arcs=arcs, compact=True, **{end: np.zeros((2, 4), np.float32)})


@pytest.mark.parametrize(
    ("argument", "value", "complaint"),
    [
        (
            "frames_lengths",
            [3, 0],
            r"^frames_lengths must be in \[1, 3\] .*frames_lengths\[1\] = 0",
        ),
        (
            "labels_lengths",
            [2, 0],
            r"^labels_lengths must be in \[0, 1\] .*labels_lengths\[0\] = 2",
        ),
        ("frames_lengths", [3], r"^frames_lengths must have shape \(2,\)"),
        ("labels_lengths", [[1, 1]], r"^labels_lengths must have shape \(2,\)"),
        ("max_labels", 2, r"^max_labels is for the compact form"),
        ("implementation", "cuda", r"^implementation must be one of None, 'native', 'reference'"),
    ],
)
def test_lengths_and_options_are_those_of_lattice_cost(argument, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        _cost(**{argument: value})
    with pytest.raises(ValueError, match=complaint):
        jax.jit(lambda blank: _cost(arcs={(1, 0): blank}, **{argument: value}))(BLANK)


def test_compact_lengths_must_fit():
    arcs = {(1, 0): np.zeros(7, np.float32)}
    with pytest.raises(ValueError, match=r"need sum\(T_n \(U_n \+ 1\)\) = 8 rows, got 7"):
        _cost(arcs=arcs, compact=True)
    with pytest.raises(ValueError, match=r"^labels_lengths must be in \[0, 0\] \(max_labels = 0\)"):
        _cost(arcs=arcs, compact=True, max_labels=0, frames_lengths=[2, 2])


@pytest.mark.parametrize("arc", [(9, 0), (1, 2), (9, 1)])
@pytest.mark.parametrize("compact", [False, True])
def test_arcs_without_kernels_are_named(arc, compact):
    shape = (8,) if compact else BLANK.shape
    arcs = {key: np.zeros(shape, np.float32) for key in ((1, 0), arc)}
    message = rf"^implementation='native': .* dt <= 8 and du <= 1, got {re.escape(str(arc))}"
    with pytest.raises(NotImplementedError, match=message):
        _cost(arcs=arcs, implementation="native", compact=compact)


def test_arcs_without_kernels_run_in_plain_jax():
    arcs = {(1, 0): BLANK, (9, 1): LABEL}
    assert_same_bits(_cost(arcs=arcs), _cost(arcs=arcs, implementation="reference"))


@needs_native
@pytest.mark.parametrize("compact", [False, True])
def test_every_arc_that_has_a_kernel_runs_in_it(compact):
    shape = (8,) if compact else BLANK.shape
    keys = [(dt, du) for dt in range(9) for du in range(2) if dt or du]
    arcs = {key: jnp.zeros(shape, jnp.float32) for key in keys}
    run = jax.jit(lambda arcs: _cost(arcs=arcs, compact=compact))
    assert "jax_rnnt_arcs_cost" in run.lower(arcs).as_text()
    assert_same_bits(run(arcs), _cost(arcs=arcs, compact=compact, implementation="native"))


def test_weights_of_two_dtypes_follow_the_promotion_that_is_set():
    arcs = {(1, 0): BLANK, (0, 1): LABEL.astype(jnp.bfloat16)}
    with pytest.raises(ValueError, match="no available implicit dtype promotion path"):
        _cost(arcs=arcs)
    with jax.numpy_dtype_promotion("standard"):
        costs = _cost(arcs=arcs)
    assert_same_bits(costs, _cost())
