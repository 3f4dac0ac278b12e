"""A joint network as a Flax NNX module; the only module here that needs the extra `flax`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike, DTypeLike

from jax_rnnt import _checks
from jax_rnnt.losses.joint import rnnt_loss_from_joint
from jax_rnnt.losses.tdt_joint import tdt_loss_from_joint
from jax_rnnt.rows.activations import resolve_activation

try:
    from flax import nnx
    from flax.nnx.nn.dtypes import promote_dtype
except ImportError as error:
    raise ImportError(
        "jax_rnnt.flax needs Flax 0.12.2 or newer: pip install 'jax_rnnt[flax]'."
    ) from error

__all__ = ["RNNTJoint"]

_LECUN_NORMAL = nnx.initializers.lecun_normal()
_ZEROS = nnx.initializers.zeros_init()


class RNNTJoint(nnx.Module):
    r"""Joint network of an RNN-Transducer: logits for decoding, a loss without them for training.

    .. math::
        logits_{n,t,u} = activation(W_e encoder_{n,t} + b_e + W_p predictor_{n,u} + b_p) \,
            kernel + bias

    `__call__` and `loss` take the outputs of encoder and predictor, before any projection to a
    common size. A search projects the encoder's output once, before it begins
    (`project_encoder`), the predictor's as often as it steps (`project_predictor`), and calls
    `from_projected` for logits.

    Attributes:
        encoder_projection: nnx.Linear from E to H features, W_e and b_e.
        predictor_projection: nnx.Linear from P to H features, W_p and b_p.
        kernel: nnx.Param (H, V), or (H, V + D).
        bias: nnx.Param (V,) or (V + D,), or None for none.
        dropout: nnx.Dropout, which `train()` and `eval()` switch, or None for none.

    Args:
        encoder_features: E, of the encoder's output.
        predictor_features: P, of the predictor's output.
        hidden_features: H, between the projections and the logits.
        vocabulary: V, the blank included.
        durations: None, or the frames of the D durations of a token-and-duration transducer (TDT):
            logits have V + D entries, and `loss` is `tdt_loss_from_joint`.
        activation: "tanh", "relu", "silu", "gelu", "sigmoid", None for none, or an elementwise JAX
            function.
        dropout_rate: of the activations between the projections and the logits, in `loss` alone;
            its keys are drawn from the stream `dropout`.
        use_bias: whether there are biases: of both projections and of the logits.
        dtype: of the computation; None for what inputs and parameters promote to.
        param_dtype: of the parameters.
        kernel_init: initialises the three matrices; LeCun normal by default.
        bias_init: initialises the three biases; zeros by default.
        rngs: random number generators; parameters are drawn from the stream `params`.

    Raises:
        ValueError: If there is no activation of that name.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jax_rnnt.flax import RNNTJoint
        >>> joint = RNNTJoint(8, 6, 4, 5, rngs=nnx.Rngs(0))  # E, P, H and V
        >>> encoder, predictor = jnp.ones((1, 2, 8)), jnp.ones((1, 3, 6))
        >>> labels, frames, lengths = jnp.array([[1, 2]]), jnp.array([2]), jnp.array([2])
        >>> def loss(joint):
        ...     return joint.loss(encoder, predictor, labels, frames, lengths, reduction="mean")
        >>> print(nnx.grad(loss)(joint)["kernel"].shape)
        (4, 5)
        >>> print(joint(encoder, predictor).shape)  # two frames, three columns
        (1, 2, 3, 5)
        >>> frames = joint.project_encoder(encoder)
        >>> features = joint.project_predictor(predictor[:, :1])
        >>> print(joint.from_projected(frames, features).shape)  # a window of a search
        (1, 2, 5)
    """

    def __init__(
        self,
        encoder_features: int,
        predictor_features: int,
        hidden_features: int,
        vocabulary: int,
        *,
        durations: tuple[int, ...] | None = None,
        activation: str | Callable[[jax.Array], jax.Array] | None = "tanh",
        dropout_rate: float = 0.0,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = _LECUN_NORMAL,
        bias_init: Initializer = _ZEROS,
        rngs: nnx.Rngs,
    ) -> None:
        resolve_activation(activation)

        def projection(features: int) -> nnx.Linear:
            return nnx.Linear(
                features,
                hidden_features,
                use_bias=use_bias,
                dtype=dtype,
                param_dtype=param_dtype,
                kernel_init=kernel_init,
                bias_init=bias_init,
                rngs=rngs,
            )

        self.encoder_projection = projection(encoder_features)
        self.predictor_projection = projection(predictor_features)
        if durations is not None:
            durations = _checks.durations("durations", durations)
        width = vocabulary + len(durations or ())
        self.kernel = nnx.Param(kernel_init(rngs.params(), (hidden_features, width), param_dtype))
        self.bias: nnx.Param[jax.Array] | None
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), (width,), param_dtype))
        else:
            self.bias = nnx.data(None)
        self.dropout = nnx.Dropout(dropout_rate, rngs=rngs) if dropout_rate else nnx.data(None)
        self.durations = durations
        self.activation = activation
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype

    def __call__(self, encoder: ArrayLike, predictor: ArrayLike) -> jax.Array:
        """Logits of every given frame with every given column of the predictor.

        The last axis but one of encoder and predictor always spans the grid of cells, whatever its
        size; the axes before it broadcast.

        Args:
            encoder: (..., T, E).
            predictor: (..., U, P).

        Returns:
            (..., T, U, V), not normalised, in the dtype of the computation.

        Raises:
            ValueError: If shapes do not fit.
        """
        encoder, predictor = self._both_projected(encoder, predictor)
        return self.from_projected(encoder[..., :, None, :], predictor[..., None, :, :])

    def project_encoder(self, encoder: ArrayLike) -> jax.Array:
        """(..., E) -> (..., H), what `from_projected` takes of the encoder's output."""
        return _project("encoder", encoder, "", self.encoder_projection)

    def project_predictor(self, predictor: ArrayLike) -> jax.Array:
        """(..., P) -> (..., H), what `from_projected` takes of the predictor's output."""
        return _project("predictor", predictor, "", self.predictor_projection)

    def from_projected(self, encoder: ArrayLike, predictor: ArrayLike) -> jax.Array:
        """Logits of what the projections gave: the `joint` of `jax_rnnt.greedy_search`.

        ==================== ============ ============ =========
        for                  encoder      predictor    logits
        ==================== ============ ============ =========
        a window of a search (N, W, H)    (N, 1, H)    (N, W, V)
        K hypotheses         (N, 1, H)    (N, K, H)    (N, K, V)
        ==================== ============ ============ =========

        Args:
            encoder: (..., H), of `project_encoder`.
            predictor: (..., H), of `project_predictor`; all axes before H broadcast.

        Returns:
            (..., V), not normalised, in the dtype of the computation.

        Raises:
            ValueError: If shapes do not fit.
        """
        encoder, predictor = jnp.asarray(encoder), jnp.asarray(predictor)
        H = self.kernel[...].shape[0]
        for name, value in (("encoder", encoder), ("predictor", predictor)):
            if value.shape[-1:] != (H,):
                raise ValueError(
                    f"{name} must have shape (..., {H}), projected, got {value.shape}."
                )
        encoder, predictor, kernel, bias = self._with_parameters(encoder, predictor)
        logits = resolve_activation(self.activation)(encoder + predictor) @ kernel
        return logits if bias is None else logits + jnp.expand_dims(bias, range(logits.ndim - 1))

    def loss(
        self,
        encoder: ArrayLike,
        predictor: ArrayLike,
        labels: ArrayLike,
        frames_lengths: ArrayLike,
        labels_lengths: ArrayLike,
        **options: Any,
    ) -> jax.Array:
        """`rnnt_loss_from_joint` of the projected inputs: the logits never exist as an array.

        The loss and the gradients of `rnnt_loss_from_logits(joint(encoder, predictor), ...)`, but
        for dropout; with durations, those of `tdt_loss_from_logits`.

        Args:
            encoder: (..., T, E).
            predictor: (..., U, P), the same leading axes; U = longest label sequence + 1. Of K
                hypotheses (..., K, U, P).
            labels: (..., U - 1) integers, padded with anything; (..., K, U - 1) of hypotheses.
            frames_lengths: (...) integers T_n in [1, T].
            labels_lengths: (...) integers U_n in [0, U - 1]; (..., K) of hypotheses.
            **options: the options of `rnnt_loss_from_joint` except `activation` and
                `dropout_rate`: `average_frames`, `reduction`, `blank`, `fastemit_lambda`, `where`,
                `rnnt_type`, `normalize`, `label_bias`, `blank_bias`, `dropout_key` (instead of one
                of the module's own), `clamp`, `columns` with `width`, `min_posterior`, `tile` and
                `implementation`. With
                durations, those of `tdt_loss_from_joint`: `sigma` and `omega`, but no `rnnt_type`,
                `normalize` or biases.

        Returns:
            (...) nats, (..., K) of hypotheses, or () after a reduction.

        Raises:
            TypeError: If labels or lengths are not integers.
            ValueError: If shapes do not fit, or concrete lengths or labels are out of range.
            NotImplementedError: If implementation="native" and the platform has no kernels.
        """
        dropout = self.dropout
        if dropout is not None and not dropout.deterministic:
            options["dropout_rate"] = dropout.rate
            if "dropout_key" not in options and dropout.rngs is not None:
                options["dropout_key"] = dropout.rngs()
        loss = rnnt_loss_from_joint
        if self.durations is not None:
            loss = functools.partial(tdt_loss_from_joint, durations=self.durations)
        return loss(
            *self._with_parameters(*self._both_projected(encoder, predictor)),
            labels,
            frames_lengths,
            labels_lengths,
            activation=self.activation,
            **options,
        )

    def _both_projected(
        self, encoder: ArrayLike, predictor: ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        return (
            _project("encoder", encoder, "T, ", self.encoder_projection),
            _project("predictor", predictor, "U, ", self.predictor_projection),
        )

    def _with_parameters(
        self, encoder: jax.Array, predictor: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        """What was projected, kernel and bias: one dtype."""
        bias = None if self.bias is None else self.bias[...]
        return promote_dtype((encoder, predictor, self.kernel[...], bias), dtype=self.dtype)


def _project(name: str, value: ArrayLike, axes: str, projection: nnx.Linear) -> jax.Array:
    """The projection of (..., axes and features); axes names those that there must be."""
    array = jnp.asarray(value)
    if array.ndim < 1 + axes.count(",") or array.shape[-1:] != (projection.in_features,):
        raise ValueError(
            f"{name} must have shape (..., {axes}{projection.in_features}), got {array.shape}."
        )
    return projection(array)
