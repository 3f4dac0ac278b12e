"""The speech example asks the package's searches for what its frames and pieces need."""

import pathlib
import sys
import types

import jax.numpy as jnp
import pytest

pytest.importorskip("flax")

# Appended: the package under test is the installed one.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

from examples.speech import decoding


@pytest.mark.parametrize("beam", [1, 4])
def test_a_word_is_written_at_one_frame(beam):
    """As frames of 80 ms and pieces of a letter have it, by a beam as by greedy search."""
    V, T, after = 10, 3, [2, 0, 3, 4, 5, 6, 7, 8, 9, 0]  # what follows each label
    table = 20 * jnp.eye(V)[jnp.array(after)]
    joint = types.SimpleNamespace(
        durations=None,
        project_encoder=lambda encoder: encoder,
        project_predictor=lambda features: features,
        from_projected=lambda encoder, features: encoder + features,
    )
    model = types.SimpleNamespace(
        joint=joint,
        encode=lambda audio, lengths: (jnp.zeros((1, T, V)), jnp.array([T])),
        predictor_start=lambda count: jnp.zeros((count, 0)),
        predictor_step=lambda state, labels: (state, table[labels]),
    )
    found = decoding.search(model, jnp.zeros((1, 8)), jnp.array([8]), beam)
    length = int(found.labels_lengths[0])
    assert found.labels[0, :length].tolist() == list(range(2, 10))
    assert found.label_frames[0, :length].tolist() == [0] * 8


def test_a_process_without_recordings_calls_no_joint():
    assert decoding.joint_calls(None, []) == 0
