"""Pickles read statically: opcodes become plain values and symbolic nodes, and nothing is imported or called."""

import codecs
import contextlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weightspace.containers.pickle_machine import Call, EndOfData, Global, Machine, Opaque, Persistent, Value, key_of
from weightspace.errors import FormatError

MAX_BYTES = 1 << 28  # a pickle's own bytes; tensors lie outside it
MAX_STEPS = 5_000_000  # opcodes: each makes at most one object, so this bounds memory and time


@dataclass(frozen=True)
class Pickle:
    """One pickle, read.

    Attributes:
        value: what it describes.
        globals: every function and class that it names, in order.
        called: those that unpickling would call as functions (not merely name, or instantiate through `__new__`).
        persistent: ids of objects that lie outside it, in order, repeated ones too.
        end: offset just behind its STOP.
    """

    value: Value
    globals: tuple[Global, ...]
    called: frozenset[Global]
    persistent: tuple[Value, ...]
    end: int


def read(data: bytes, start: int = 0, *, max_steps: int = MAX_STEPS) -> Pickle:
    """Read one pickle of any protocol from `data[start:]` without running it.

    Raises:
        FormatError: truncated or damaged, or built to exhaust memory.

    Example:
        >>> import pickle, os
        >>> class Bad:
        ...     def __reduce__(self): return os.getcwd, ()
        >>> found = read(pickle.dumps({"a": [1, 2.5], "b": Bad()}))
        >>> found.value["a"], found.value["b"].args, [str(g).split(".")[-1] for g in found.globals]
        ([1, 2.5], (), ['getcwd'])
    """
    machine = Machine(data, start)
    value = _run(machine, max_steps)
    return Pickle(value, tuple(machine.globals.values()), frozenset(machine.called), tuple(machine.persistent), machine.at)


def named(data: bytes) -> tuple[Global, ...]:
    """List what a pickle names, as far as it can be read; joblib puts raw bytes between opcodes, where reading ends."""
    machine = Machine(data, 0)
    with contextlib.suppress(FormatError):
        _run(machine, MAX_STEPS)
    return tuple(machine.globals.values())


def _run(machine: Machine, max_steps: int) -> Value:
    data, handlers, size = machine.data, _HANDLERS, len(machine.data)
    try:
        for _ in range(max_steps):
            opcode = data[machine.at]
            machine.at += 1
            if opcode == _STOP:
                if not machine.stack:
                    raise ValueError("nothing was made")
                return machine.stack.pop()
            handlers[opcode](machine)
    except EndOfData:
        pass
    except FormatError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error) as error:
        if not (isinstance(error, IndexError) and machine.at >= size):
            raise FormatError(
                f"its pickle is damaged at byte {machine.at} ({type(error).__name__}: {error})", advice="copy or download it again"
            ) from None
    else:
        raise FormatError(f"its pickle has more than {max_steps:,} steps", reason="hostile", advice="do not load this file")
    raise FormatError(f"its pickle ends unfinished at byte {size}", reason="truncated", advice="copy or download it again")


_HANDLERS: list[Callable[[Machine], None]] = []
_STOP = ord(".")


def _unknown(machine: Machine) -> None:
    raise ValueError(f"no pickle opcode {machine.data[machine.at - 1]:#04x}")


_HANDLERS.extend([_unknown] * 256)


def _opcode(*codes: int | str) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    def register(handler: Callable[[Machine], None]) -> Callable[[Machine], None]:
        for code in codes:
            _HANDLERS[ord(code) if isinstance(code, str) else code] = handler
        return handler

    return register


def _pushes(code: int | str, make: Callable[[Machine], Value]) -> None:
    """Register an opcode that only pushes one value."""

    def push(machine: Machine) -> None:
        value = make(machine)  # before the stack is looked up: taking marked values replaces it
        machine.stack.append(value)

    _HANDLERS[ord(code) if isinstance(code, str) else code] = push


def _text(raw: bytes) -> str | bytes:
    """Python 2 strings are text or bytes; what is not ASCII stays bytes, so that nothing is lost."""
    return raw.decode("ascii") if raw.isascii() else raw


def _quoted(machine: Machine) -> str | bytes:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string is not quoted")
    return _text(codecs.escape_decode(line[1:-1])[0])


def _decimal(raw: bytes) -> int | bool:
    return raw == b"01" if raw in (b"00", b"01") else int(raw.removesuffix(b"L"))


def _byte(machine: Machine) -> int:
    machine.at += 1
    return machine.data[machine.at - 1]


_pushes("N", lambda machine: None)
_pushes(0x88, lambda machine: True)
_pushes(0x89, lambda machine: False)
_pushes("K", _byte)
_pushes("M", lambda machine: int.from_bytes(machine.take(2), "little"))
_pushes("J", lambda machine: int.from_bytes(machine.take(4), "little", signed=True))
_pushes("I", lambda machine: _decimal(machine.line()))
_pushes("L", lambda machine: _decimal(machine.line()))
_pushes(0x8A, lambda machine: int.from_bytes(machine.sized(1), "little", signed=True))
_pushes(0x8B, lambda machine: int.from_bytes(machine.sized(4), "little", signed=True))
_pushes("F", lambda machine: float(machine.line()))
_pushes("G", lambda machine: struct.unpack(">d", machine.take(8))[0])
_pushes("S", _quoted)
_pushes("T", lambda machine: _text(machine.sized(4)))
_pushes("U", lambda machine: _text(machine.sized(1)))
_pushes("V", lambda machine: machine.line().decode("raw-unicode-escape"))
_pushes("X", lambda machine: machine.sized(4).decode("utf-8", "surrogatepass"))
_pushes(0x8C, lambda machine: machine.sized(1).decode("utf-8", "surrogatepass"))
_pushes(0x8D, lambda machine: machine.sized(8).decode("utf-8", "surrogatepass"))
_pushes("B", lambda machine: machine.sized(4))
_pushes("C", lambda machine: machine.sized(1))
_pushes(0x8E, lambda machine: machine.sized(8))
_pushes(0x96, lambda machine: bytearray(machine.sized(8)))
_pushes(0x97, lambda machine: Persistent("out-of-band buffer"))
_pushes(")", lambda machine: ())
_pushes("]", lambda machine: [])
_pushes("}", lambda machine: {})
_pushes("2", lambda machine: machine.stack[-1])
_pushes("g", lambda machine: machine.memo[int(machine.line())])
_pushes("h", lambda machine: machine.memo[_byte(machine)])
_pushes("j", lambda machine: machine.memo[int.from_bytes(machine.take(4), "little")])
_pushes("c", lambda machine: machine.named(machine.line().decode("utf-8"), machine.line().decode("utf-8")))
_pushes("P", lambda machine: machine.outside(machine.line().decode("ascii", "backslashreplace")))
_pushes("Q", lambda machine: machine.outside(machine.stack.pop()))
_pushes("t", lambda machine: tuple(machine.marked()))
_pushes("l", lambda machine: machine.marked())
_pushes(0x8F, lambda machine: Call(machine.named("builtins", "set")))
_pushes(0x91, lambda machine: Call(machine.named("builtins", "frozenset"), (machine.marked(),)))


@_opcode("q")
def _binput(machine: Machine) -> None:
    machine.memo[machine.data[machine.at]] = machine.stack[-1]
    machine.at += 1


@_opcode("r")
def _long_binput(machine: Machine) -> None:
    machine.memo[int.from_bytes(machine.take(4), "little")] = machine.stack[-1]


@_opcode("p")
def _put(machine: Machine) -> None:
    machine.memo[int(machine.line())] = machine.stack[-1]


@_opcode(0x94)
def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


@_opcode("(")
def _mark(machine: Machine) -> None:
    machine.saved.append(machine.stack)
    machine.stack = []


@_opcode("0")
def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.marked()


@_opcode("1")
def _pop_mark(machine: Machine) -> None:
    machine.marked()


@_opcode(0x80)
def _proto(machine: Machine) -> None:
    if _byte(machine) > 5:
        raise ValueError("a protocol above 5")


@_opcode(0x95)
def _frame(machine: Machine) -> None:
    machine.take(8)  # the frame's length only helps readers of streams


@_opcode(0x98)
def _readonly(machine: Machine) -> None:
    machine.stack[-1]


@_opcode(0x85)
def _tuple1(machine: Machine) -> None:
    machine.stack[-1] = (machine.stack[-1],)


@_opcode(0x86)
def _tuple2(machine: Machine) -> None:
    last = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], last)


@_opcode(0x87)
def _tuple3(machine: Machine) -> None:
    last = machine.stack.pop()
    middle = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], middle, last)


@_opcode("a")
def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    _extend(machine.stack[-1], (value,))


@_opcode("e", 0x90)
def _appends(machine: Machine) -> None:
    values = machine.marked()
    _extend(machine.stack[-1], values)


def _extend(target: Value, values: Sequence[Value]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Call):
        target.items = target.items or []
        target.items.extend(values)
    else:
        raise ValueError(f"{type(target).__name__} takes no items")


@_opcode("s")
def _setitem(machine: Machine) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    _update(machine.stack[-1], (key, value))


@_opcode("u")
def _setitems(machine: Machine) -> None:
    values = machine.marked()
    _update(machine.stack[-1], values)


@_opcode("d")
def _dict(machine: Machine) -> None:
    values = machine.marked()
    made: dict[Value, Value] = {}
    _update(made, values)
    machine.stack.append(made)


def _update(target: Value, values: Sequence[Value]) -> None:
    if len(values) % 2:
        raise ValueError("a key without a value")
    if isinstance(target, dict):
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key if type(key) is str else key_of(key)] = value
    elif isinstance(target, Call):
        target.pairs = target.pairs or []
        target.pairs.extend(zip(values[::2], values[1::2], strict=True))
    else:
        raise ValueError(f"{type(target).__name__} takes no keys")


@_opcode("R")
def _reduce(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args)


@_opcode("i")
def _inst(machine: Machine) -> None:
    found = machine.named(machine.line().decode("utf-8"), machine.line().decode("utf-8"))
    args = tuple(machine.marked())
    machine.stack.append(machine.call(found, args))


@_opcode("o")
def _obj(machine: Machine) -> None:
    args = machine.marked()
    machine.stack.append(machine.call(args[0], tuple(args[1:])))


@_opcode(0x81)
def _newobj(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.stack[-1] = _made(machine, machine.stack[-1], args, None)


@_opcode(0x92)
def _newobj_ex(machine: Machine) -> None:
    kwargs = machine.stack.pop()
    args = machine.stack.pop()
    machine.stack[-1] = _made(machine, machine.stack[-1], args, kwargs)


def _made(machine: Machine, kind: Value, args: Value, kwargs: Value) -> Value:
    if not isinstance(kind, Global | Persistent) or not isinstance(args, tuple) or not isinstance(kwargs, dict | None):
        raise ValueError("an object is made from no class")
    folded = machine.folded(kind, args) if isinstance(kind, Global) and not kwargs else None
    return Call(kind, args, kwargs) if folded is None else folded


@_opcode(0x93)
def _stack_global(machine: Machine) -> None:
    name = machine.stack.pop()
    machine.stack[-1] = machine.named(machine.stack[-1], name)


@_opcode("b")
def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    # A state dict carries module versions as `_metadata` this way; folded dictionaries have no place for it.
    if isinstance(target, Call):
        target.state = state


def _extension(width: int) -> Callable[[Machine], Value]:
    # copyreg's registry gives numbers to functions at run time; what they mean is unknowable here.
    return lambda machine: machine.named("copyreg", f"extension {int.from_bytes(machine.take(width), 'little')}")


_pushes(0x82, _extension(1))
_pushes(0x83, _extension(2))
_pushes(0x84, _extension(4))


__all__ = ["MAX_BYTES", "MAX_STEPS", "Call", "Global", "Opaque", "Persistent", "Pickle", "Value", "named", "read"]
