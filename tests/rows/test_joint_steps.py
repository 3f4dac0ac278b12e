"""The loop over a list whose length the device alone knows."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_rnnt.rows.joint_steps import equal_steps, large_steps, loop

MOST = 45
ROUNDS = [((1, 1),), ((8, 1), (1, 1)), ((4, 3), (1, 3), (1, 1))]


def _starts(length, *, most=MOST, rounds=ROUNDS[0]):
    """For each unit the number of the step that took it, and how many steps there were."""

    def step(start, units, state):
        taken, count = state
        return taken.at[start + np.arange(units, dtype=np.int32)].add(count + 1), count + 1

    return loop(length, step, (jnp.zeros(MOST, jnp.int32), jnp.int32(0)), most=most, rounds=rounds)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_every_unit_once_and_in_order(rounds):
    run = jax.jit(lambda length: _starts(length, rounds=rounds))
    units = rounds[0][1]
    for length in (0, 1, 3, 4, 11, 12, 13, 17, 24, 29, MOST):
        taken, count = run(jnp.int32(length))
        expected = [1 + i // units for i in range(length // units * units)]
        expected += [1 + length // units + i for i in range(length % units)]
        np.testing.assert_array_equal(taken, expected + [0] * (MOST - length))
        assert count == length // units + length % units


@pytest.mark.parametrize(("most", "count"), [(0, 0), (1, 1)])
def test_a_list_of_at_most_one_unit_needs_no_loop(most, count):
    compiled = jax.jit(lambda length: _starts(length, most=most)).lower(jnp.int32(0)).compile()
    assert " while(" not in compiled.as_text()
    assert compiled(jnp.int32(0))[1] == count


@pytest.mark.parametrize(("most", "outer", "inner"), [(2, 1, []), (11, 2, []), (MOST, 3, [4])])
def test_inner_loops_have_a_known_number_of_steps(most, outer, inner):
    """Without it, XLA on a GPU reads the condition on the host before each step."""

    def run(length):
        return _starts(length, most=most, rounds=ROUNDS[-1])

    text = jax.jit(run).lower(jnp.int32(0)).compile().as_text()
    known = [int(n) for n in re.findall(r'"known_trip_count":\{"n":"(\d+)"\}', text)]
    assert [n for n in known if n > 1] == inner
    assert len(re.findall(r" while\(", text)) == outer + len(inner)


@pytest.mark.parametrize("rounds", [equal_steps(), *map(large_steps, (1, 2, 3))])
def test_rounds_descend_to_a_unit(rounds):
    sizes = [steps * units for steps, units in rounds]
    assert sizes == sorted(set(sizes), reverse=True)
    assert rounds[-1] == (1, 1)
