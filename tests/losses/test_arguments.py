"""What may be passed, and what the complaint says when something else is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import DEFAULT_LOSS, Loss, precision
from tolerances import assert_same_bits

import jax_rnnt

LOGITS, LOG_PROBS = DEFAULT_LOSS, Loss(from_logits=False)
BOTH = pytest.mark.parametrize(
    ("loss", "name"), [(LOGITS, "logits"), (LOG_PROBS, "log_probs")], ids=["logits", "log_probs"]
)


def _arguments(**changed) -> dict:
    """Two sequences, T = 3, U = 3, V = 5."""
    given = dict(
        rows=np.zeros((2, 3, 3, 5), np.float32),
        labels=np.array([[1, 2], [3, 4]], np.int32),
        frames_lengths=np.array([3, 2], np.int32),
        labels_lengths=np.array([2, 1], np.int32),
    )
    return {**given, **changed}


@BOTH
@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64, np.uint8])
def test_rows_must_be_floats(loss, name, dtype):
    with pytest.raises(TypeError, match=f"^{name} must be of dtype float32"):
        loss(**_arguments(rows=np.zeros((2, 3, 3, 5), dtype)))


@BOTH
@pytest.mark.parametrize("rows", [None, "logits", object()])
def test_rows_must_be_an_array(loss, name, rows):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        loss(**_arguments(rows=rows))


@BOTH
@pytest.mark.parametrize("argument", ["labels", "frames_lengths", "labels_lengths"])
@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.complex64])
def test_labels_and_lengths_must_be_integers(loss, name, argument, dtype):
    wrong = _arguments()[argument].astype(dtype)
    with pytest.raises(TypeError, match=f"^{argument} must be integers"):
        loss(**_arguments(**{argument: wrong}))


@BOTH
@pytest.mark.parametrize("argument", ["labels", "frames_lengths", "labels_lengths"])
def test_labels_and_lengths_must_be_given(loss, name, argument):
    with pytest.raises(TypeError, match=f"^{argument} must be integers"):
        loss(**_arguments(**{argument: None}))


@BOTH
@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (2, 0, 3, 5), (2, 3, 0, 5), (2, 3, 3, 0)])
def test_rows_must_have_frames_labels_and_symbols(loss, name, shape):
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(\.\.\., T, U, V\)"):
        loss(**_arguments(rows=np.zeros(shape, np.float32)))


@BOTH
@pytest.mark.parametrize(
    ("argument", "shape"),
    [
        ("labels", (2, 3)),
        ("labels", (2, 1)),
        ("labels", (1, 2)),
        ("labels", (4,)),
        ("labels", (2, 2, 1)),
        ("frames_lengths", (3,)),
        ("frames_lengths", ()),
        ("frames_lengths", (2, 1)),
        ("labels_lengths", (1,)),
        ("labels_lengths", ()),
        ("labels_lengths", (2, 2)),
    ],
)
def test_shapes_must_fit_at_trace_time_too(loss, name, argument, shape):
    arguments = _arguments(**{argument: np.ones(shape, np.int32)})
    message = rf"^{argument} must have shape .* got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        loss(**arguments)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda given: loss(**given), arguments)


@BOTH
@pytest.mark.parametrize("blank", [5, -6, 100])
def test_blank_must_be_a_symbol(loss, name, blank):
    with pytest.raises(ValueError, match=rf"^blank must be in \[-5, 5\) .* got {blank}"):
        loss(**_arguments(), blank=blank)


@BOTH
@pytest.mark.parametrize("blank", [1.0, "0", None])
def test_blank_must_be_an_integer(loss, name, blank):
    with pytest.raises(TypeError, match=r"^blank must be an integer"):
        loss(**_arguments(), blank=blank)


@BOTH
@pytest.mark.parametrize("reduction", ["average", "Mean", "", 0])
def test_reduction_must_be_known(loss, name, reduction):
    with pytest.raises(ValueError, match=r"^reduction must be one of None, 'none', 'sum', 'mean'"):
        loss(**_arguments(), reduction=reduction)


@pytest.mark.parametrize("implementation", ["cuda", "Native", True])
def test_implementation_must_be_known(implementation):
    loss = Loss(from_logits=True, implementation=implementation)
    with pytest.raises(ValueError, match=r"^implementation must be one of None, 'native'"):
        loss(**_arguments())


@BOTH
def test_fastemit_lambda_must_be_a_number(loss, name):
    with pytest.raises(ValueError, match=r"^fastemit_lambda must be a number"):
        loss(**_arguments(), fastemit_lambda=np.ones(2, np.float32))


@BOTH
@pytest.mark.parametrize(
    ("argument", "value", "complaint"),
    [
        ("frames_lengths", [3, 0], r"frames_lengths must be in \[1, 3\] .*frames_lengths\[1\] = 0"),
        ("frames_lengths", [4, 9], r"frames_lengths\[0\] = 4"),
        ("frames_lengths", [-1, 2], r"frames_lengths\[0\] = -1"),
        ("labels_lengths", [2, 3], r"labels_lengths must be in \[0, 2\] .*labels_lengths\[1\] = 3"),
        ("labels_lengths", [-1, 3], r"labels_lengths\[0\] = -1"),
        ("labels", [[1, 2], [5, 4]], r"labels must be in \[0, 5\) .*labels\[1, 0\] = 5"),
        ("labels", [[1, -1], [-1, 4]], r"labels\[0, 1\] = -1"),
    ],
)
def test_bad_values_raise_where_they_can_be_seen(loss, name, argument, value, complaint):
    arguments = _arguments(**{argument: np.array(value, np.int32)})
    with pytest.raises(ValueError, match=complaint):
        loss(**arguments)
    rows = arguments.pop("rows")
    with pytest.raises(ValueError, match=complaint):
        jax.grad(lambda x: loss(x, **arguments, reduction="sum"))(jnp.asarray(rows))


@BOTH
@pytest.mark.parametrize(
    "value",
    [[[1], [2, 3]], [1, [2, 3]], 10**400, [10**400], np.zeros(2, "timedelta64[s]"), "labels"],
    ids=["ragged", "ragged numbers", "huge", "list of huge", "timedelta64", "str"],
)
@pytest.mark.parametrize("argument", ["rows", "labels", "frames_lengths", "labels_lengths"])
def test_what_is_no_array_of_numbers_is_named(loss, name, argument, value):
    with pytest.raises(TypeError, match=f"^{name if argument == 'rows' else argument} must be"):
        loss(**_arguments(**{argument: value}))


@BOTH
def test_lists_of_traced_lengths(loss, name):
    plain = _arguments()

    def costs(first, second):
        return loss(**{**plain, "frames_lengths": [first, second]})

    assert_same_bits(jax.jit(costs)(*plain["frames_lengths"]), loss(**plain))


@BOTH
@pytest.mark.parametrize("option", ["average_frames", "compact"])
@pytest.mark.parametrize("value", ["no", 2, 0.5, None, np.zeros(2), jnp.zeros(())], ids=repr)
def test_flags_must_be_true_or_false(loss, name, option, value):
    function = jax_rnnt.rnnt_loss_from_logits if loss.from_logits else jax_rnnt.rnnt_loss
    with pytest.raises(TypeError, match=f"^{option} must be True or False"):
        function(*_arguments().values(), **{option: value})


@BOTH
@pytest.mark.parametrize("option", ["blank", "average_frames", "reduction"])
def test_options_must_be_known_in_advance(loss, name, option):
    with pytest.raises((TypeError, ValueError), match=f"^{option} must be"):
        jax.jit(lambda value: loss(**_arguments(), **{option: value}))(0)


@BOTH
def test_flags_may_be_numbers(loss, name):
    plain = _arguments()
    for value in (1, np.True_, np.int32(1)):
        assert_same_bits(loss(**plain, average_frames=value), loss(**plain, average_frames=True))


@BOTH
@pytest.mark.parametrize("value", [["mean"], np.array(["mean", "sum"]), jnp.zeros(2)])
def test_choices_must_be_strings(loss, name, value):
    with pytest.raises(ValueError, match=r"^reduction must be one of None"):
        loss(**_arguments(), reduction=value)


@BOTH
def test_labels_beyond_their_length_are_not_looked_at(loss, name):
    assert np.isfinite(loss(**_arguments(labels=np.array([[1, 2], [3, -7]])))).all()


@BOTH
@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int64, np.uint32, np.uint64]
)
def test_any_integer_dtype_will_do(loss, name, dtype):
    plain = _arguments()
    given = {k: v if k == "rows" else v.astype(dtype) for k, v in plain.items()}
    assert_same_bits(loss(**given), loss(**plain))
    with precision("float64"):
        assert_same_bits(loss(**given), loss(**plain))


@BOTH
def test_integers_beyond_int32_do_not_wrap_around(loss, name):
    arguments = _arguments(frames_lengths=np.array([3, 2 + 2**32], np.int64))
    with pytest.raises(ValueError, match=r"frames_lengths\[1\]"):
        loss(**arguments)
    with precision("float64"):
        costs = jax.jit(lambda given: loss(**given))(arguments)
    assert np.isfinite(costs[0])
    assert np.isnan(costs[1])


@BOTH
def test_python_lists_and_numbers(loss, name):
    plain = _arguments()
    lists = {key: value.tolist() for key, value in plain.items()}
    assert_same_bits(loss(**lists), loss(**plain))
    one = {key: value[1].tolist() for key, value in plain.items()}
    assert_same_bits(loss(**one), np.asarray(loss(**plain))[1])


@BOTH
@pytest.mark.parametrize("labels", [[[], []], np.zeros((2, 0), np.int32), np.zeros((2, 0))])
def test_no_labels_are_an_empty_list(loss, name, labels):
    if getattr(labels, "dtype", None) == np.float64:
        labels = labels.tolist()
    rows = np.zeros((2, 3, 1, 5), np.float32)
    costs = loss(rows, labels, [3, 1], [0, 0])
    np.testing.assert_allclose(costs, np.array([3, 1]) * np.log(5 if loss.from_logits else 1))


def test_rnnt_loss_takes_what_warp_rnnt_takes_in_its_order():
    rows, *rest = _arguments().values()
    log_probs = jax.nn.log_softmax(rows)
    positional = jax_rnnt.rnnt_loss(log_probs, *rest, True, "mean", -1, True, 0.5, False)
    by_name = jax_rnnt.rnnt_loss(
        log_probs,
        *rest,
        average_frames=True,
        reduction="mean",
        blank=-1,
        gather=True,
        fastemit_lambda=0.5,
        compact=False,
    )
    assert_same_bits(positional, by_name)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "complaint"),
    [
        (np.zeros((3, 4), np.int32), np.zeros(3, np.int32), TypeError, "^logits must be of dtype"),
        (np.zeros((3, 4), np.float32), np.zeros(3), TypeError, "^labels must be integers"),
        (np.zeros((3, 4), np.float32), np.zeros(4, np.int32), ValueError, "^labels must have one"),
        (np.zeros((), np.float32), np.zeros((), np.int32), ValueError, "^labels must have one"),
        (np.zeros((3, 0), np.float32), np.zeros(3, np.int32), ValueError, "V at least 1"),
    ],
)
def test_log_softmax_pick_complains(logits, labels, error, complaint):
    with pytest.raises(error, match=complaint):
        jax_rnnt.log_softmax_pick(logits, labels)


def test_log_softmax_pick_complains_of_its_options():
    logits, labels = np.zeros((3, 4), np.float32), np.zeros(3, np.int32)
    with pytest.raises(ValueError, match=r"^blank must be in"):
        jax_rnnt.log_softmax_pick(logits, labels, blank=4)
    with pytest.raises(ValueError, match=r"^implementation must be one of"):
        jax_rnnt.log_softmax_pick(logits, labels, implementation="fast")


@pytest.mark.parametrize(
    ("changed", "error", "complaint"),
    [
        (dict(blank=np.zeros((2, 3, 4), np.int32)), TypeError, "^blank_log_probs must be of dtype"),
        (dict(label=np.zeros((2, 3, 4), np.int32)), TypeError, "^label_log_probs must be of dtype"),
        (dict(blank=np.zeros(3, np.float32)), ValueError, "^blank_log_probs must"),
        (dict(label=np.zeros((2, 3, 3), np.float32)), ValueError, "^label_log_probs must have"),
        (dict(frames=np.array([3.0, 3.0])), TypeError, "^frames_lengths must be integers"),
        (dict(frames=np.array([3])), ValueError, "^frames_lengths must have shape"),
        (dict(labels=np.array([3])), ValueError, "^labels_lengths must have shape"),
        (dict(frames=np.array([3, 4])), ValueError, r"frames_lengths\[1\] = 4"),
        (dict(labels=np.array([-1, 3])), ValueError, r"labels_lengths\[0\] = -1"),
        (dict(labels=np.array([3, 4])), ValueError, r"labels_lengths\[1\] = 4"),
        (dict(implementation="fast"), ValueError, "^implementation must be one of"),
    ],
)
def test_lattice_cost_complains(changed, error, complaint):
    arcs = np.zeros((2, 3, 4), np.float32)
    given = dict(blank=arcs, label=arcs, frames=np.array([3, 3]), labels=np.array([3, 3]))
    given |= changed
    implementation = given.pop("implementation", None)
    with pytest.raises(error, match=complaint):
        jax_rnnt.lattice_cost(*given.values(), implementation=implementation)


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (2, 0, 3), (2, 3, 0)])
def test_lattice_must_have_cells(shape):
    arcs, lengths = np.zeros(shape, np.float32), np.ones(shape[:-2], np.int32)
    with pytest.raises(ValueError, match=r"^blank_log_probs must"):
        jax_rnnt.lattice_cost(arcs, arcs, lengths, 0 * lengths)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(compact=True, max_labels=1), ValueError, r"^labels_lengths must be in \[0, 1\]"),
        (dict(compact=True, max_labels=-1), ValueError, "^max_labels must not be negative"),
        (dict(compact=True, max_labels=1.5), TypeError, "^max_labels must be an integer"),
        (dict(max_labels=3), ValueError, "^max_labels is for the compact form"),
    ],
)
def test_lattice_cost_complains_of_max_labels(options, error, message):
    shape = (6,) if options.get("compact") else (1, 2, 3)
    arcs = jnp.zeros(shape)
    with pytest.raises(error, match=message):
        jax_rnnt.lattice_cost(arcs, arcs, np.array([2]), np.array([2]), **options)


@pytest.mark.parametrize(
    ("fastemit_lambda", "error"),
    [
        (1j, TypeError),
        (object(), TypeError),
        (np.ones(2), ValueError),
        (10**400, TypeError),
        (False, TypeError),
    ],
)
def test_fastemit_lambda_must_be_one_real_number(fastemit_lambda, error):
    with pytest.raises(error, match=r"^fastemit_lambda must be"):
        LOGITS(*_arguments().values(), fastemit_lambda=fastemit_lambda)


def test_numpy_values_are_checked_under_jit_too():
    arguments = _arguments(frames_lengths=np.array([3, 4], np.int32))
    rows = arguments.pop("rows")
    with pytest.raises(ValueError, match=r"^frames_lengths must be in .*frames_lengths\[1\] = 4"):
        jax.jit(lambda rows: LOGITS(rows, *arguments.values()))(rows)
