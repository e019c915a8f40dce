"""The pickle machine's values and registers: what a static reader builds instead of objects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from weightspace.errors import FormatError, one_line

MAX_COPIES, FREE = 4, 1 << 20  # what is copied by calls that make plain data: times the pickle's bytes, unless it is little
PLAIN_KEYS = (str, int, float, bool, bytes, type(None))

Value = Any  # None, bool, int, float, str, bytes, bytearray, tuple, list, dict, Global, Call, Persistent, Opaque


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return one_line(f"{self.module}.{self.name}", 120)


@dataclass(slots=True, eq=False)
class Call:
    """An object that unpickling would make by calling something; here it stays a description.

    Attributes:
        function: what would be called: nearly always a Global.
        args: positional arguments.
        kwargs: keyword arguments.
        state: what would be given to `__setstate__` or put into `__dict__`.
        items: what would be appended (lists, sets).
        pairs: what would be set by key (dictionaries).
    """

    function: Value
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] | None = None
    state: Value = None
    items: list[Value] | None = None
    pairs: list[tuple[Value, Value]] | None = None

    def __repr__(self) -> str:
        return f"<Call {self.function if isinstance(self.function, Global) else type(self.function).__name__}>"


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """An object kept outside the pickle, such as torch's storages."""

    pid: Value


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A dictionary key that is no plain value; equal to itself alone, since hashing deep tuples can exhaust the C stack."""

    value: Value


class EndOfData(Exception):  # noqa: N818 - a signal, not an error
    """The data end inside an argument."""


class Machine:
    """The pickle machine's registers: stack, marks and memo."""

    __slots__ = ("at", "called", "copied", "data", "globals", "memo", "persistent", "saved", "stack")

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at, self.copied = data, at, 0
        self.stack: list[Value] = []
        self.saved: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.called: set[Global] = set()
        self.persistent: list[Value] = []

    def take(self, count: int) -> bytes:
        """Take the next bytes of the data."""
        end = self.at + count
        if end > len(self.data):
            raise EndOfData
        found = self.data[self.at : end]
        self.at = end
        return found

    def sized(self, width: int) -> bytes:
        """Take bytes whose number stands before them, little-endian in `width` bytes."""
        return self.take(int.from_bytes(self.take(width), "little"))

    def line(self) -> bytes:
        """Take the bytes up to the end of the line."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise EndOfData
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    def marked(self) -> list[Value]:
        """Pop everything above the last mark."""
        found = self.stack
        self.stack = self.saved.pop()
        return found

    def named(self, module: Value, name: Value) -> Global:
        """Note a global; each is one object."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global is not named by strings")
        found = self.globals.get((module, name))
        if found is None:
            found = self.globals[module, name] = Global(module, name)
        return found

    def outside(self, pid: Value) -> Persistent:
        """Note an object outside the pickle."""
        self.persistent.append(pid)
        return Persistent(pid)

    def folded(self, function: Global, args: tuple[Value, ...]) -> Value:
        """Make the plain data that a call would; None where it is no such call.

        Raises:
            FormatError: all such copies together are larger than the pickle could hold.
        """
        fold = FOLDS.get((function.module, function.name))
        if fold is None:
            return None
        self.copied += sum(len(one) for one in args[:2] if isinstance(one, str | list | tuple))
        if self.copied > MAX_COPIES * len(self.data) + FREE:
            raise FormatError("its pickle copies itself without end", reason="hostile", advice="do not load this file")
        return fold(args)

    def call(self, function: Value, args: Value) -> Value:
        """Describe a call; the few that only make plain data become that data."""
        if not isinstance(args, tuple):
            raise ValueError("arguments are not a tuple")
        if isinstance(function, Global):
            self.called.add(function)
            folded = self.folded(function, args)
            if folded is not None:
                return folded
        elif not isinstance(function, Persistent):
            self.called.add(self.named("pickle", "computed function"))
        return Call(function, args)


def key_of(value: Value) -> Value:
    """Make a dictionary key of any value."""
    kind = type(value)
    if kind in PLAIN_KEYS or kind is Global or (kind is tuple and all(type(one) in PLAIN_KEYS for one in value)):
        return value
    return Opaque(value)


def _fold_dict(args: tuple[Value, ...]) -> dict[Value, Value] | None:
    if not args or (len(args) == 1 and (args[0] is None or isinstance(args[0], Global))):
        return {}
    if len(args) == 1 and isinstance(args[0], list | tuple):
        pairs = [one for one in args[0] if isinstance(one, list | tuple) and len(one) == 2]
        return {key_of(key): value for key, value in pairs} if len(pairs) == len(args[0]) else None
    return None


def _fold_tuple(args: tuple[Value, ...]) -> tuple[Value, ...] | None:
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], list | tuple) else () if not args else None


def _fold_bytes(args: tuple[Value, ...]) -> bytes | None:
    """Protocols 0 to 2 of Python 3 write bytes as latin-1 text with `_codecs.encode`."""
    return args[0].encode("latin-1") if len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1") else None


def _fold_object(args: tuple[Value, ...]) -> Call | None:
    """Protocols 0 and 1 make plain objects with `copyreg._reconstructor(class, object, None)`."""
    return Call(args[0]) if len(args) == 3 and isinstance(args[0], Global) else None


FOLDS: dict[tuple[str, str], Callable[[tuple[Value, ...]], Value]] = {
    ("collections", "OrderedDict"): _fold_dict,
    ("collections", "defaultdict"): _fold_dict,
    ("torch", "Size"): _fold_tuple,
    ("_codecs", "encode"): _fold_bytes,
    ("copyreg", "_reconstructor"): _fold_object,
    ("copy_reg", "_reconstructor"): _fold_object,
    ("builtins", "bytes"): lambda args: b"" if not args else None,
    ("__builtin__", "bytes"): lambda args: b"" if not args else None,
}
