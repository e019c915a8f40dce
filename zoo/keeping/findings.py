"""What a check finds: one thing that is wrong, where, and what can be done about it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: a word: catalog, schema, dangling, twice, value, counts, identity, statistics, circle, recipe, views, missing, changed,
            damaged, form, unknown, leftover, cache, lock, lost, sidecar.
        what: what was expected, and what was found.
        where: table and row, or file.
        advice: what can be done.
        is_mendable: whether `--repair` does it.
        models: surrogate ids of the models that it is about.
    """

    kind: str
    what: str
    where: str
    advice: str
    is_mendable: bool = False
    models: tuple[int, ...] = ()

    def row(self) -> dict[str, object]:
        """As a table or a program shows it."""
        return {"kind": self.kind, "what": self.what, "where": self.where, "advice": self.advice, "mendable": self.is_mendable}


@dataclass
class CheckReport:
    """What a check did.

    Attributes:
        findings: all that is wrong; after a repair what is left.
        mended: what a repair mended.
        models: in the catalog.
        files: looked at.
        unread: models of which only headers were ever read; their weights were not fetched.
        bytes_read: of files.
        seconds: wall time.
    """

    findings: list[Finding] = field(default_factory=list)
    mended: list[Finding] = field(default_factory=list)
    models: int = 0
    files: int = 0
    unread: int = 0
    bytes_read: int = 0
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings
