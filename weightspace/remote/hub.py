"""The Hub as a place of files: what a repository holds, and ranges of its files, through the client's own sessions, retries and login."""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from weightspace.errors import FormatError, one_line
from weightspace.remote.file import RemoteFile

SCHEME = "hf:"
Result = TypeVar("Result")

PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before asking again where the server does not say
RETRIED = (408, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0  # seconds before asking again, whatever the server says
CHUNK = 1 << 20  # bytes of a response taken at a time
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_KINDS = {"datasets/": "dataset", "spaces/": "space"}


@dataclass(frozen=True)
class HubAddress:
    """A place on the Hub.

    Attributes:
        repo: `org/name`, or the name of one of the old repositories without an owner.
        revision: branch, tag or commit; None for the main branch.
        path: of a file in it, or empty.
        kind: model, dataset or space.
    """

    repo: str
    revision: str | None = None
    path: str = ""
    kind: str = "model"

    @classmethod
    def parse(cls, text: str) -> "HubAddress":
        """Read `hf:[datasets/]org/name[@revision][/path]`.

        Raises:
            FormatError: it is not of that form.
        """
        rest = text.removeprefix(SCHEME)
        prefix = next((one for one in _KINDS if rest.startswith(one)), "")
        rest = rest.removeprefix(prefix)
        named = re.fullmatch(r"(?P<repo>[^@/]+(/[^@/]+)?)(@(?P<revision>[^/@]+))?(/(?P<path>[^@]+))?", rest)
        if named is None or not _NAME.fullmatch(named["repo"]):
            raise FormatError(
                f"'{one_line(text, 120)}' is no address on the Hub",
                reason="unreadable",
                advice="write hf:org/name, hf:org/name@revision/file",
            )
        return cls(named["repo"], named["revision"], named["path"] or "", _KINDS.get(prefix, "model"))

    @classmethod
    def dataset(cls, text: str) -> "HubAddress":
        """Read `[hf:][datasets/]org/name[@revision]` as that of a data set."""
        return cls.parse(f"{SCHEME}datasets/{text.removeprefix(SCHEME).removeprefix('datasets/')}")

    def __str__(self) -> str:
        prefix = next((one for one, kind in _KINDS.items() if kind == self.kind), "")
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{prefix}{self.repo}{revision}{'/' + self.path if self.path else ''}"


def endpoint() -> str | None:
    """The Hub to ask: `$HF_ENDPOINT` as it is now, which the client reads only once."""
    return os.environ.get("HF_ENDPOINT") or None


def repository(address: HubAddress) -> Any:
    """What the Hub says of a repository: commit, files with sizes and SHA-256, card; one request.

    Raises:
        FormatError: there is none, it is not open to this user, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    try:
        return retried(lambda: api.repo_info(address.repo, repo_type=address.kind, revision=address.revision, files_metadata=True))
    except Exception as error:
        raise refusal(address, error) from None


def retried(call: Callable[[], Result]) -> Result:
    """Ask again after 429 and 5xx, as long as the server says to wait, a few times; once after a lost connection; never after a refusal."""
    lost = 0
    for pause in (*PAUSES, None):
        try:
            return call()
        except Exception as error:
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", None)
            lost += status is None
            is_worth = status in RETRIED or (status is None and lost < 2 and isinstance(error, OSError | _network_errors()))
            if pause is None or not is_worth:
                raise
            time.sleep(min(_wait(response, pause), LONGEST_WAIT))
    raise AssertionError  # the last turn returns or raises


def _network_errors() -> type[Exception]:
    """What the client raises when a connection cannot be made or breaks."""
    import httpx2

    found: type[Exception] = httpx2.TransportError
    return found


def _wait(response: Any, otherwise: float) -> float:
    """Seconds that the server wants us to wait."""
    said = getattr(response, "headers", {}).get("Retry-After", "")
    return float(said) if said.isdigit() else otherwise


def files_of(address: HubAddress, found: Any) -> list[RemoteFile]:
    """The files at an address, all of the repository or those that its path names, at the commit that `repository` found."""
    made = []
    for one in found.siblings or ():
        if address.path and one.rfilename != address.path and not one.rfilename.startswith(f"{address.path.rstrip('/')}/"):
            continue
        version = str((one.lfs or {}).get("sha256") or one.blob_id or "")
        where = HubAddress(address.repo, found.sha, one.rfilename, address.kind)
        if one.size is not None and version:
            made.append(
                RemoteFile(str(where), int(one.size), version, partial(fetch, address.repo, address.kind, found.sha, one.rfilename))
            )
    return made


def fetch(repo: str, kind: str, revision: str, path: str, offset: int, count: int) -> Iterator[bytes]:
    """Yield a range of a file; trouble on the way is tried again as the client does, and then said."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status, http_stream_backoff

    where = HubAddress(repo, revision, path, kind)
    url = hf_hub_url(repo, path, repo_type=kind, revision=revision, endpoint=endpoint())
    headers = {**build_hf_headers(), "Range": f"bytes={offset}-{offset + count - 1}", "Accept-Encoding": "identity"}
    try:
        with http_stream_backoff(
            "GET", url, headers=headers, follow_redirects=True, max_retries=len(PAUSES), base_wait_time=PAUSES[0]
        ) as response:
            hf_raise_for_status(response)
            if response.status_code != 206 and count:
                raise FormatError(
                    f"{where}: the server does not read ranges (status {response.status_code})",
                    reason="unreadable",
                    advice="download it and give its path",
                )
            yield from response.iter_bytes(CHUNK)
    except FormatError:
        raise
    except Exception as error:
        raise refusal(where, error) from None


def refusal(address: HubAddress, error: Exception) -> FormatError:
    """What went wrong with the Hub, in one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = type(error).__name__
    if name in ("GatedRepoError", "DisabledRepoError") or status == 403:
        return FormatError(
            f"{address}: access is refused", reason="unreadable", advice="ask its owner for access, then run `hf auth login`"
        )
    if name in ("RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError", "EntryNotFoundError") or status in (
        401,
        404,
    ):
        return FormatError(
            f"{address}: is not there, or not for this user",
            reason="missing",
            advice="check the name; for private ones run `hf auth login`",
        )
    said = f"status {status}" if status is not None else f"{name}: {one_line(str(error), 120)}"
    return FormatError(f"{address}: the Hub does not answer ({said})", reason="unreadable", advice="try again later")


__all__ = ["CHUNK", "SCHEME", "HubAddress", "endpoint", "fetch", "files_of", "refusal", "repository", "retried"]
