"""The kernels behind all normalisations of a row: a log-sum, and entries of the row.

What is made of them is elementwise, on arrays of one number a row; nothing here copies a part of
the logits, which is why the sum may leave entries out and why entries may lie behind the symbols.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_rnnt import reference
from jax_rnnt._xla.derivatives import custom_vjp
from jax_rnnt._xla.primitive import Kernel
from jax_rnnt._xla.residuals import to_bits
from jax_rnnt.rows.pick import ColumnLabels, Kernels, each_row, vary_with_labels

# The most entries that the kernels pick beside the blank's and the label's.
MAX_PICKS = 16


class Selection(NamedTuple):
    """What a sum counts and which entries are picked, as `reference.entries_forward` has it."""

    blank: int
    tokens: int
    without_blank: bool
    without_label: bool
    picks: tuple[int, ...]

    def in_core(self, column: int | jax.Array, labels: jax.Array) -> jax.Array:
        """Whether the sums of rows with these labels count a column."""
        counted = jnp.asarray(column < self.tokens)
        if self.without_blank:
            counted &= column != self.blank
        if self.without_label:
            counted &= column != labels
        return counted

    def attributes(self) -> dict:
        """The attributes of a kernel, numbers and tuples of numbers."""
        numbers = {
            "without_blank": int(self.without_blank),
            "without_label": int(self.without_label),
        }
        return self._asdict() | numbers


class Entries(NamedTuple):
    """Of each row the log-sum, in two terms, and entries; see `reference.entries_forward`."""

    maxima: jax.Array  # a constant to derivatives
    log_sums: jax.Array
    blank: jax.Array
    label: jax.Array
    picks: tuple[jax.Array, ...]


def cotangents_of(row: Entries) -> tuple[jax.Array, ...]:
    """The cotangents that count, in the order of the kernels."""
    return row.log_sums, row.blank, row.label, *row.picks


_BY_ROW = Kernels(
    Kernel(
        "entries_forward",
        operands=("V", ""),
        results=("", "", "", "", "*"),
        result_dtype="accumulator",
        fallback=lambda *operands, **selection: reference.entries_forward(*operands, **selection),
    ),
    Kernel(
        "entries_backward",
        operands=("V", "", "", "", "", "", "", "*"),
        results=("V",),
        result_dtype="operand",
        bits=(2, 3),
        overwrites=True,
        fallback=lambda *operands, **selection: [
            reference.entries_backward(*operands, **selection)
        ],
    ),
)
BY_COLUMN = Kernels(
    Kernel(
        "entries_forward_columns",
        operands=("RCV", "C", ""),
        results=("RC", "RC", "RC", "RC", "RC*"),
        result_dtype="accumulator",
        fallback=lambda logits, *labels, **selection: reference.entries_forward(
            logits, each_row(logits, ColumnLabels(*labels)), **selection
        ),
    ),
    Kernel(
        "entries_backward_columns",
        operands=("RCV", "C", "", "RC", "RC", "RC", "RC", "RC", "RC*"),
        results=("RCV",),
        result_dtype="operand",
        bits=(3, 4),
        overwrites=True,
        fallback=lambda logits, labels, counts, *rows, **selection: [
            reference.entries_backward(
                logits, each_row(logits, ColumnLabels(labels, counts)), *rows, **selection
            )
        ],
    ),
)


def _forward_with_bias(logits, labels, counts, bias, **selection):
    logits = reference.add_bias(logits, bias)
    return reference.entries_forward(
        logits, each_row(logits, ColumnLabels(labels, counts)), **selection
    )


def _backward_with_bias(logits, labels, counts, bias, *rows, **options):
    logits = reference.add_bias(logits, bias)
    labels = each_row(logits, ColumnLabels(labels, counts))
    return reference.entries_backward_parts(logits, labels, *rows, **options)


# Of groups of rows, all with one bias: logits (G, R, C, W) as a matrix product leaves them, in the
# accumulator's dtype. The bias is added when a logit is read. The backward has an operand beside
# the others', `bounds` (G, R, C) behind the bias, to which each row's gradients are cut, and an
# attribute `dtype`, that of the gradients; its second result are the sums of all gradients of
# each reference.BIAS_PART_ROWS rows before they are rounded, one after the other, whose sum is the
# bias' gradient.
WITH_BIAS = Kernels(
    Kernel(
        "entries_forward_biased",
        operands=("GRCV", "GC", "G", "V"),
        results=("GRC", "GRC", "GRC", "GRC", "GRC*"),
        result_dtype="accumulator",
        fallback=_forward_with_bias,
    ),
    Kernel(
        "entries_backward_biased",
        operands=("GRCV", "GC", "G", "V", "GRC", *("GRC",) * 5, "GRC*"),
        results=(
            "GRCV",
            lambda sizes: sizes["V"] * reference.bias_parts(math.prod(sizes[d] for d in "GRC")),
        ),
        result_dtype="operand",
        accumulated=(1,),
        overwrites=True,
        fallback=_backward_with_bias,
    ),
)


def entries(
    logits: jax.Array,
    labels: jax.Array | ColumnLabels,
    selection: Selection,
    implementation: str | None,
) -> Entries:
    """The log-sum over each row's core and the selected entries, differentiable in the logits."""
    if implementation == "reference":
        maxima, log_sums, blank, label, *picks = reference.entries_forward(
            logits, each_row(logits, labels), **selection._asdict()
        )
        return Entries(maxima, log_sums, blank, label, tuple(picks))
    logits, labels = vary_with_labels(logits, labels)
    return _entries(logits, labels, selection, implementation == "native")


@custom_vjp(2, 3)
def _entries(logits, labels, selection, insist):
    return _entries_forward(logits, labels, selection, insist)[0]


def _entries_forward(logits, labels, selection, insist):
    kernels = BY_COLUMN if isinstance(labels, ColumnLabels) else _BY_ROW
    maxima, log_sums, blank, label, *picks = kernels.forward(
        logits,
        *jax.tree.leaves(labels),
        insist=insist,
        repeats=len(selection.picks),
        **selection.attributes(),
    )
    results = Entries(maxima, log_sums, blank, label, tuple(picks))
    return results, (logits, labels, *to_bits(maxima, log_sums))


def _entries_backward(selection, insist, residuals, cotangents):
    logits, labels, *sums = residuals
    kernels = BY_COLUMN if isinstance(labels, ColumnLabels) else _BY_ROW
    (logits_cotangents,) = kernels.backward(
        logits,
        *jax.tree.leaves(labels),
        *sums,
        *cotangents_of(cotangents),
        insist=insist,
        **selection.attributes(),
    )
    return logits_cotangents, None


_entries.defvjp(_entries_forward, _entries_backward)
