"""The two ways from a joint network to its loss, for `benchmarks.joint`.

Each is a function (encoder (N, T, H), predictor (N, U, H), kernel (H, V), bias (V,), labels,
frames_lengths, labels_lengths, **options) -> costs (N,), with tanh between.
"""

from benchmarks.contenders.peers import contender

PATHS = JOINT, MATERIALISED = "joint", "materialised"
OWN = "own"  # the kernels that the GPU runs unless told otherwise
# The joint with its options; see `joint_options`.
OPTION_WAYS = (
    "standard",
    "TDT, 5 durations",
    "HAT",
    "dropout 0.2",
    "clamp 0.1",
    "4 hypotheses an encoder",
)


@contender("joint", requires="jax_rnnt")
def joint():
    from jax_rnnt import rnnt_loss_from_joint

    return rnnt_loss_from_joint


@contender("joint", requires="jax_rnnt")
def materialised():
    import jax.numpy as jnp

    from jax_rnnt import rnnt_loss_from_logits

    def loss(encoder, predictor, kernel, bias, *rest, **options):
        del options
        logits = jnp.tanh(encoder[:, :, None] + predictor[:, None]) @ kernel + bias
        return rnnt_loss_from_logits(logits, *rest)

    return loss
