"""Which shapes a function takes together, and others."""

from fuzz_functions import BIASES, JOINT
from fuzz_signatures import Signature, Source


def fits(signature: Signature, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the function takes arrays of these shapes together."""
    function = signature.function
    first = shapes[function.rows[0]]
    width = 1 + len(signature.durations)
    if function.is_pick:
        return len(first) >= 1 and first[-1] >= 1 and shapes["labels"] == first[:-1]
    if function.compact:
        alike = shapes["frames_lengths"] == shapes["labels_lengths"]
        alike &= len(shapes["frames_lengths"]) == 1
        if "labels" not in shapes:
            return alike and len(first) == 1 and all(shapes[x] == first for x in function.rows)
        alike &= len(first) == 2 and first[1] >= width and len(shapes["labels"]) == 1
        return alike and _biases_fit(shapes, first[:1])
    if "encoder" in shapes:
        first = _cells_of_joint(shapes)
    if function.is_lattice and any(shapes[name] != first for name in function.rows):
        return False
    if "label_log_probs" in shapes:
        first = (*first, 1)
    if len(first) < 3 or 0 in first[-3:] or first[-1] < width:
        return False
    if not _biases_fit(shapes, first[:-1]):
        return False
    *sequences, _, U, _ = first
    batch = shapes["encoder"][:-2] if "encoder" in shapes else tuple(sequences)
    if shapes["frames_lengths"] != batch or shapes["labels_lengths"] != tuple(sequences):
        return False
    return "labels" not in shapes or shapes["labels"] == (*sequences, U - 1)


def _cells_of_joint(shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the logits; () where there are none."""
    encoder, predictor, kernel, bias = (shapes[name] for name in JOINT)
    if len(encoder) < 2 or len(predictor) - len(encoder) not in (0, 1) or len(kernel) != 2:
        return ()
    batch, H = encoder[:-2], encoder[-1]
    if predictor[: len(batch)] != batch or not predictor[-1] == H == kernel[0]:
        return ()
    return (*predictor[:-2], encoder[-2], predictor[-2], kernel[1]) if bias == kernel[1:] else ()


def _biases_fit(shapes: dict[str, tuple[int, ...]], cells: tuple[int, ...]) -> bool:
    """Whether biases, where there are any, broadcast to the cells."""
    for name in BIASES:
        own = shapes.get(name, ())
        if len(own) > len(cells) or any(a not in (1, b) for a, b in zip(own[::-1], cells[::-1])):
            return False
    return True


def other_shape(source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
    size = list(shape)
    place = source.integer(0, len(size) - 1) if size else 0
    how = source.choice(["more", "fewer", "zero", "longer", "shorter", "reverse", "none", "many"])
    if how == "more":
        size.insert(place, source.choice([1, 2, 0]))
    elif how == "none":
        return ()
    elif how == "many":
        return (1,) * source.choice([6, 9]) + tuple(size)
    elif how == "reverse":
        size.reverse()
    elif size and how == "fewer":
        size.pop(place)
    elif size:
        size[place] = {"zero": 0, "longer": size[place] + 1, "shorter": max(size[place] - 1, 0)}[
            how
        ]
    return tuple(size)


# Where two arguments disagree, either may be the one that is complained of.
TIED = {"predictor": {"labels"}, "label_log_probs": {"blank_log_probs"}, "encoder": {"predictor"}}
TIED |= {"kernel": {"bias"}}
