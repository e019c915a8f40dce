"""Models of a query that could not be measured: gathered while the others go on, then told."""

from weightspace.cli import cells
from weightspace.cli.output import say
from weightspace.errors import AnalysisError, one_line

_MOST = 12  # that are told one by one


class LeftOut:
    """Is told of each model, or pair, that was left out, and why."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str, error: Exception) -> None:
        """Note one."""
        self.reasons[one_line(name)] = one_line(str(error))

    def report(self, what: str, *, is_all: bool) -> None:
        """Say on stderr what was left out.

        Args:
            what: was to be taken of them, for the message.
            is_all: whether nothing else was found.

        Raises:
            AnalysisError: nothing is left.
        """
        if is_all and self.reasons:
            name, reason = next(iter(self.reasons.items()))
            others = f" and {len(self.reasons) - 1:,} more" if len(self.reasons) > 1 else ""
            raise AnalysisError(f"{what} could be taken of none that the query finds: {name}{others}: {reason}")
        for name, reason in list(self.reasons.items())[:_MOST]:
            say(cells.safe(f"left out {name}: {reason}"), style="yellow")
        if len(self.reasons) > _MOST:
            say(f"left out {len(self.reasons) - _MOST:,} more", style="yellow")
