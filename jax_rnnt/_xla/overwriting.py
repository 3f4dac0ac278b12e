"""Whether a kernel may write its result over an operand, which is known when it is lowered."""

from typing import Any

from jax.interpreters import mlir


def may_overwrite(value: Any, platform: str, program: Any) -> bool:
    """Whether writing over an MLIR value saves an array and copies none.

    XLA copies the array first if anything reads it afterwards. An argument of the program that is
    not donated is kept in any case, so that the copy would be a pass over memory for nothing. On
    CPU, XLA also copies arrays that the program itself has computed.

    A function within the program is lowered before its call, which alone says what its argument
    is. If the program has an argument of the same type, this is taken to be it: it rarely is not,
    the array being as large as logits.
    """
    operation = _owner(value)
    while operation.name in ("stablehlo.reshape", "sdy.manual_computation"):
        value = operation.operands[_argument_number(value)]
        operation = _owner(value)
    if operation.name == "func.func":
        main = next(x.operation for x in program.body.operations if _is_main(x.operation))
        if operation == main:
            return _is_donated(main, _argument_number(value))
        types = main.attributes["function_type"].value.inputs
        if any(x == value.type and not _is_donated(main, i) for i, x in enumerate(types)):
            return False
    return platform != "cpu"


def _owner(value: Any) -> Any:
    """The operation of which an MLIR value is a result, or an argument of its body."""
    is_argument = isinstance(value.owner, mlir.ir.Block)
    return value.owner.owner.operation if is_argument else value.owner


def _argument_number(value: Any) -> int:
    """The argument's number among its body's; 0 of a result."""
    is_argument = isinstance(value.owner, mlir.ir.Block)
    return mlir.ir.BlockArgument(value).arg_number if is_argument else 0


def _is_main(operation: Any) -> bool:
    """Whether an operation is the program's function."""
    return operation.name == "func.func" and operation.attributes["sym_name"].value == "main"


def _is_donated(function: Any, argument: int) -> bool:
    if "arg_attrs" not in function.attributes:
        return False
    attributes = function.attributes["arg_attrs"][argument]
    return any(name in attributes for name in ("tf.aliasing_output", "jax.buffer_donor"))
