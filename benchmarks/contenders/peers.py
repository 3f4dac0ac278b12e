"""The losses that are compared, each a function of a few lines.

A contender returns a function (logits (N, T, U, V), labels (N, U - 1), frames_lengths (N,),
labels_lengths (N,)) -> costs (N,), logits not normalised, labels and lengths int32, blank 0, of
JAX arrays or of torch tensors; what it needs it imports inside.
"""

import dataclasses
from collections.abc import Callable

OURS = "jax_rnnt"
FRAMEWORKS = ("jax", "torch", "joint", "speech")


@dataclasses.dataclass(frozen=True)
class Contender:
    name: str
    framework: str  # the end of the name of a module `on_...`
    requires: str  # the module without which it cannot run
    make: Callable[[], Callable]
    slow: bool = False  # measured with full lengths of the synthetic shapes alone


CONTENDERS: dict[str, Contender] = {}


def contender(framework: str, requires: str, slow: bool = False) -> Callable:
    """Enters the decorated function under its own name."""
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be among {FRAMEWORKS}, got {framework!r}.")

    def enter(make: Callable[[], Callable]) -> Callable[[], Callable]:
        name = make.__name__
        CONTENDERS[name] = Contender(name, framework, requires, make, slow)
        return make

    return enter


@contender("jax", requires="jax_rnnt")
def jax_rnnt():
    import functools

    from jax_rnnt import rnnt_loss_from_logits

    return functools.partial(rnnt_loss_from_logits, implementation="native")


@contender("jax", requires="jax_rnnt", slow=True)
def reference():
    import functools

    from jax_rnnt import rnnt_loss_from_logits

    return functools.partial(rnnt_loss_from_logits, implementation="reference")


@contender("torch", requires="apex")
def apex():
    from apex.contrib.transducer import TransducerLoss

    module = TransducerLoss()  # the log-softmax is inside, its backward in the loss's

    def loss(logits, labels, frames_lengths, labels_lengths):
        costs = module(logits, labels, frames_lengths, labels_lengths, blank_idx=0)
        if costs.requires_grad:  # its backward wants memory, and a sum's gradient is one number
            costs.register_hook(lambda gradient: gradient.contiguous())
        return costs

    return loss


@contender("torch", requires="torchaudio")
def torchaudio():
    from torchaudio.functional import rnnt_loss

    return lambda *arguments: rnnt_loss(*arguments, blank=0, reduction="none")


@contender("torch", requires="warp_rnnt")
def warp_rnnt():
    from warp_rnnt import rnnt_loss

    return lambda logits, *rest: rnnt_loss(logits.log_softmax(-1), *rest)


@contender("torch", requires="warp_rnnt")
def warp_rnnt_gather():
    from warp_rnnt import rnnt_loss

    return lambda logits, *rest: rnnt_loss(logits.log_softmax(-1), *rest, gather=True)


@contender("torch", requires="fast_rnnt")
def fast_rnnt():
    import torch
    from fast_rnnt import rnnt_loss

    def loss(logits, labels, frames_lengths, labels_lengths):
        zeros = torch.zeros_like(frames_lengths)
        boundary = torch.stack([zeros, zeros, labels_lengths, frames_lengths], -1).long()
        return rnnt_loss(logits, labels.long(), 0, boundary=boundary, reduction="none")

    return loss
