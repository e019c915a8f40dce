"""Every error a user can meet, each one line: what was expected, what came, where, what to do next."""

import difflib
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

_TELLING = 3  # letters of a name from which on one that holds them may be meant

# What a parser may raise on a damaged file, besides FormatError.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    UnicodeError,
    ValueError,
    struct.error,
    zlib.error,
)


def one_line(text: str, limit: int = 600) -> str:
    """Make text from an untrusted source safe for one line of a terminal: no control characters, no endless names."""
    begin = text[: limit + 1]  # escapes are longer than what they stand for
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in begin)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def close_names(name: str, known: Iterable[str]) -> str:
    """Phrase the end of an unknown-name message: the closest known name, then all of them.

    Closest is one that has the name for its last part, as in `folder/name`, then one that is spelled much alike, then one that holds it.
    """
    names = list(known)
    last = [one for one in names if name and one.endswith(f"/{name}")]
    close = last or difflib.get_close_matches(name, names, n=1) or [one for one in names if len(name) >= _TELLING and name in one]
    hint = f"; did you mean '{close[0]}'?" if close else ""
    shown = ", ".join(names[:12]) + (f", … {len(names) - 12} more" if len(names) > 12 else "")
    return f"{hint} (known: {shown or 'none'})"


class WeightSpaceError(Exception):
    """Anything weightspace refuses to do; the message is one line and ends with what to do next."""

    def __str__(self) -> str:
        return one_line(super().__str__() if not isinstance(self, KeyError) else " ".join(map(str, self.args)))


class UnknownNameError(WeightSpaceError, KeyError):
    """A name that is not in a registry, a checkpoint or a catalog."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> "UnknownNameError":
        """Say that no `kind` has this name, and which names there are."""
        return cls(f"no {kind} named '{name}'{close_names(name, known)}")


class ShapeMismatchError(WeightSpaceError, ValueError):
    """A tensor whose shape is not the one that is needed."""


class SymmetryError(WeightSpaceError, ValueError):
    """Axes, a group element or a module whose symmetry cannot be stated, or does not fit its tensors."""


class TaskError(WeightSpaceError, ValueError):
    """A module, its batches or a user's function that does not do what is asked of it."""


class MergeError(WeightSpaceError, ValueError):
    """A recipe that cannot be carried out, or models that cannot be merged as it says."""


class AnalysisError(WeightSpaceError, ValueError):
    """Weights or models of which a question cannot be answered, or a measure not be taken."""


class MetanetError(WeightSpaceError, ValueError):
    """A metanet that cannot be built as asked, or networks that it cannot read or learn from."""


class GenerationError(WeightSpaceError, ValueError):
    """A generator that cannot be made, fitted or drawn from as asked."""


class FormatError(WeightSpaceError, ValueError):
    """A file that cannot be read as a checkpoint.

    Attributes:
        reason: one of the words in `REASONS`; what the catalog's quarantine table stores.
        advice: what the user can do about it.
    """

    REASONS = ("unknown", "truncated", "corrupt", "hostile", "needs-code", "unsupported", "missing", "unreadable", "crashed")

    def __init__(self, message: str, *, reason: str = "corrupt", advice: str = "") -> None:
        if reason not in self.REASONS:
            raise ValueError(f"reason must be one of {self.REASONS}, not {reason!r}")
        super().__init__(f"{message}; {advice}" if advice else message)
        self.detail, self.reason, self.advice = one_line(message), reason, one_line(advice)

    def __reduce__(self) -> tuple[object, ...]:
        return _format_error, (type(self), self.detail, self.reason, self.advice)


def _format_error(kind: type[FormatError], detail: str, reason: str, advice: str) -> FormatError:
    """Rebuild a FormatError that crossed a process border."""
    return kind(detail, reason=reason, advice=advice)


def guarded(read: Callable[[Path], Result], path: Path) -> Result:
    """Turn whatever a damaged file makes a reader raise into one clear FormatError that names the file."""
    try:
        return read(path)
    except FormatError as error:
        if one_line(str(path)) in error.detail:
            raise
        raise type(error)(f"{path}: {error.detail}", reason=error.reason, advice=error.advice) from None
    except (AnalysisError, MergeError, SymmetryError, TaskError):  # what computes tensors when they are read has its own to say
        raise
    except DAMAGE as error:
        text = str(error) or type(error).__name__
        raise FormatError(f"{path}: damaged ({text})", reason="corrupt", advice="copy or download it again") from None


class CatalogError(WeightSpaceError):
    """A zoo or its catalog that is missing, damaged, of another version or asked the wrong thing."""


class RecordError(WeightSpaceError, ValueError):
    """A metric, tag or tracker file that cannot be recorded."""


class MissingDependencyError(WeightSpaceError, ImportError):
    """An optional package that is needed for what was asked, and is not installed."""

    @classmethod
    def of(cls, package: str, purpose: str, extra: str) -> "MissingDependencyError":
        """Say which package is missing, what it is for and how to install it."""
        return cls(f"{purpose} needs the package '{package}', which is not installed; pip install 'weightspace[{extra}]'")


class WorkerDiedError(WeightSpaceError, RuntimeError):
    """A worker process was ended from outside (out of memory, a crash in a C library, a signal), and again when its work was done again."""


class ClusterError(WeightSpaceError, ConnectionError):
    """A cluster that cannot be reached, has no workers, or is lost."""
