"""The Hub as a place of files: what a repository holds, and ranges of its files, through the client's own session and login."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from weightspace.errors import FormatError, one_line
from weightspace.remote import client
from weightspace.remote.client import bounded, retried
from weightspace.remote.file import RemoteFile

SCHEME = "hf:"
HOME = "https://huggingface.co"
CHUNK = 1 << 20  # bytes of a response taken at a time
MOST_BYTES = 1 << 50  # of a file; one that is said to be larger is none
MOST_DEPTH = 64  # of what a card or a configuration says
_REF = re.compile(r"refs/(?:pr|convert)/[^/@]+")
_ADDRESS = re.compile(rf"(?P<repo>[^@/]+(?:/[^@/]+)?)(?:@(?P<revision>{_REF.pattern}|[^/@]+))?(?:/(?P<path>.+))?")
_NO_REVISION = re.compile(r"[^@/]+(?:/[^@/]+)?@(?:/.*)?")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
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
        """Read `hf:[datasets/]org/name[@revision][/path]`; a slash in a revision is written %2F, but for `refs/pr/1` and the like.

        Raises:
            FormatError: it is not of that form.
        """
        rest = text.removeprefix(SCHEME)
        prefix = next((one for one in _KINDS if rest.startswith(one)), "")
        rest = rest.removeprefix(prefix)
        if _NO_REVISION.fullmatch(rest):
            said = f"'{one_line(text, 120)}' names no revision after the @"
            raise FormatError(said, reason="unreadable", advice="write one, as in hf:org/name@main, or leave the @ away")
        named = _ADDRESS.fullmatch(rest)
        if named is None or not _NAME.fullmatch(named["repo"]) or not is_inside(named["path"] or "file") or not rest.isprintable():
            raise FormatError(
                f"'{one_line(text, 120)}' is no address on the Hub",
                reason="unreadable",
                advice="write hf:org/name, hf:org/name@revision/file",
            )
        revision = unquote(named["revision"]) if named["revision"] else None
        return cls(named["repo"], revision, named["path"] or "", _KINDS.get(prefix, "model"))

    @property
    def page(self) -> str:
        """Where a browser shows the repository."""
        prefix = next((one for one, kind in _KINDS.items() if kind == self.kind), "")
        return f"{shown_endpoint()}/{prefix}{self.repo}"

    @classmethod
    def dataset(cls, text: str) -> "HubAddress":
        """Read `[hf:][datasets/]org/name[@revision]` as that of a data set."""
        return cls.parse(f"{SCHEME}datasets/{text.removeprefix(SCHEME).removeprefix('datasets/')}")

    def __str__(self) -> str:
        prefix = next((one for one, kind in _KINDS.items() if kind == self.kind), "")
        said = self.revision if _REF.fullmatch(self.revision or "") else quote(self.revision or "", safe="")
        revision = f"@{said}" if said else ""
        return f"{SCHEME}{prefix}{self.repo}{revision}{'/' + self.path if self.path else ''}"


def endpoint() -> str | None:
    """The Hub to ask: `$HF_ENDPOINT` as it is now, which the client reads only once."""
    return os.environ.get("HF_ENDPOINT") or None


def shown_endpoint() -> str:
    """The address of the Hub, without a name and password where somebody wrote them into it."""
    parts = urlsplit(endpoint() or HOME)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def login() -> str | None:
    """The token that the client sends, which is never to be shown; None where nobody is logged in."""
    from huggingface_hub import get_token

    return get_token()


def _is_sendable(token: str | None) -> bool:
    return token is None or (token.isascii() and token.isprintable())


def is_inside(path: str) -> bool:
    """Whether a path that somebody else wrote stays in the folder that it is put into."""
    return len(path) <= 4096 and path.isprintable() and not any(part in ("", ".", "..") for part in path.split("/")) and "\\" not in path


def repository(address: HubAddress) -> Any:
    """What the Hub says of a repository: commit, files with sizes and SHA-256, card; one request.

    Raises:
        FormatError: there is none, it is not open to this user, the Hub cannot be reached, or says what cannot be.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    try:
        found = retried(lambda: api.repo_info(address.repo, repo_type=address.kind, revision=address.revision, files_metadata=True))
        if not isinstance(found.sha, str) or not COMMIT.fullmatch(found.sha):
            raise ValueError(f"the commit '{one_line(str(found.sha), 60)}'")
        files = getattr(found, "siblings", None) or ()
        if files and all(one.size is None for one in files):
            raise ValueError("files without their sizes, which were asked for")
    except Exception as error:
        raise refusal(address, error) from None
    return found


def said_of(found: Any) -> dict[str, Any]:
    """What the card of a repository says, where that is what a card may say.

    Raises:
        FormatError: it nests too deep.
    """
    card = getattr(found, "card_data", None)
    try:
        said = dict(card.to_dict()) if card is not None else {}
    except Exception:  # the client reads a few of its parts into classes of its own, which not everything fits
        return {}
    if _nests(said) > MOST_DEPTH:
        raise FormatError(
            f"hf:{one_line(str(found.id), 120)}: its card nests deeper than {MOST_DEPTH}", reason="hostile", advice="do not use it"
        )
    return said


def _nests(value: object) -> int:
    depth, level = 0, [value]
    while level and depth <= MOST_DEPTH:
        depth += 1
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ())
            if isinstance(inner, Mapping | list | tuple)
        ]
    return depth


def files_of(address: HubAddress, found: Any) -> list[RemoteFile]:
    """The files at an address, all of the repository or those that its path names, at the commit that `repository` found.

    What has a name that leads out of a folder, no possible size or no hash is no file.
    """
    made = []
    for one in found.siblings or ():
        name, size = one.rfilename, one.size
        version = str((one.lfs or {}).get("sha256") or one.blob_id or "")
        if (
            not isinstance(name, str)
            or not is_inside(name)
            or type(size) is not int
            or not 0 <= size < MOST_BYTES
            or not COMMIT.fullmatch(version)
        ):
            continue
        if address.path and name != address.path and not name.startswith(f"{address.path.rstrip('/')}/"):
            continue
        where = HubAddress(address.repo, found.sha, name, address.kind)
        made.append(RemoteFile(str(where), size, version, partial(fetch, address.repo, address.kind, found.sha, name, version)))
    return made


def fetch(repo: str, kind: str, revision: str, path: str, version: str, offset: int, count: int) -> Iterator[bytes]:
    """Yield a range of a file; after trouble on the way it goes on where it was, and where that does not help it says so."""
    where = HubAddress(repo, revision, path, kind)
    got, tries = 0, 0
    while got < count:
        bounded()
        before = got
        try:
            for block in _range(where, version, offset + got, count - got):
                got += len(block)
                yield block
            if got < count:
                raise _short(got, count)
        except FormatError:
            raise
        except Exception as error:
            tries = 0 if got - before >= CHUNK else tries  # who gets on may go on
            if tries >= len(client.PAUSES) or not client.is_passing(error):
                raise refusal(where, error) from None
            client.pause_for(error, client.PAUSES[tries])
            tries += 1


def _range(where: HubAddress, version: str, offset: int, count: int) -> Iterator[bytes]:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import get_session, hf_raise_for_status

    url = hf_hub_url(where.repo, where.path, repo_type=where.kind, revision=where.revision, endpoint=endpoint())
    headers = {**build_hf_headers(), "Range": f"bytes={offset}-{offset + count - 1}", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        _expect(where, version, response, offset, count)
        got = 0
        for block in response.iter_raw(CHUNK):
            got += len(block)
            if got > count:
                raise FormatError(f"{where}: asked for {count} bytes, got more", reason="corrupt", advice="try again later")
            yield block


def _expect(where: HubAddress, version: str, response: Any, offset: int, count: int) -> None:
    """See that the answer is the range that was asked for, of the file that was asked for."""
    of = {one.headers.get("X-Linked-ETag", "").strip('W/"') for one in (*response.history, response)} - {""}
    if not response.history and not of:
        of = {response.headers.get("ETag", "").strip('W/"')} - {""}
    other = [one for one in of if COMMIT.fullmatch(one) and len(one) == len(version) and one != version]
    if other:
        raise FormatError(f"{where}: has changed since it was looked at", reason="unreadable", advice="open it again")
    said = response.headers.get("Content-Range")
    if response.status_code != 206 and (offset or response.headers.get("Content-Length") != str(count)):
        raise FormatError(
            f"{where}: the server does not read ranges (status {response.status_code})",
            reason="unreadable",
            advice="download it and give its path",
        )
    if said is not None and not said.startswith(f"bytes {offset}-{offset + count - 1}/"):
        raise FormatError(
            f"{where}: asked for bytes {offset} to {offset + count - 1}, got {one_line(said, 60)}",
            reason="corrupt",
            advice="try again later",
        )


def _short(got: int, count: int) -> Exception:
    import httpx2

    return httpx2.RemoteProtocolError(f"the connection ended after {got} of {count} bytes")


def refusal(address: HubAddress, error: Exception) -> FormatError:
    """What went wrong with the Hub, or here, in one line."""
    import httpx2

    if isinstance(error, FormatError):
        return error
    error = client.cause_of(error)
    if isinstance(error, UnicodeEncodeError | httpx2.LocalProtocolError) and not _is_sendable(login()):
        said = "the token of the login has letters that a request cannot carry"
        advice = "log in again with `hf auth login`, or see that HF_TOKEN is the token and nothing else"
        return FormatError(f"{address}: {said}", reason="unreadable", advice=advice)
    status, name = client.status_of(error), type(error).__name__
    if name == "GatedRepoError":
        advice = f"ask for it at {address.page}, then run `hf auth login`"
        return FormatError(f"{address}: access is refused", reason="unreadable", advice=advice)
    if name == "DisabledRepoError" or status == 403:
        return FormatError(
            f"{address}: access is refused", reason="unreadable", advice="ask its owner for access, then run `hf auth login`"
        )
    missing = ("RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError", "EntryNotFoundError")
    if name in missing or status in (401, 404):
        return FormatError(
            f"{address}: is not there, or not for this user",
            reason="missing",
            advice="check the name; for private ones run `hf auth login`",
        )
    if status is not None and status not in client.RETRIED:
        said = one_line(" ".join(str(error).split()), 200)
        return FormatError(f"{address}: the Hub refuses (status {status}: {said})", reason="unreadable", advice="see what it says")
    if status is None and isinstance(error, OSError):
        return client.local_refusal(str(address), error)
    if status is None and (not isinstance(error, httpx2.TransportError | httpx2.TooManyRedirects) or client.is_misled(error)):
        said = one_line(" ".join(f"{name}: {error}".split()), 160)
        return FormatError(
            f"{address}: what answers there is not the Hub ({said})",
            reason="unreadable",
            advice="check HF_ENDPOINT and any proxy, or try again later",
        )
    said = f"status {status}" if status is not None else f"{name}: {one_line(' '.join(str(error).split()), 120)}"
    return FormatError(f"{address}: the Hub does not answer ({said})", reason="unreadable", advice="try again later")


__all__ = [
    "CHUNK",
    "COMMIT",
    "SCHEME",
    "HubAddress",
    "endpoint",
    "fetch",
    "files_of",
    "is_inside",
    "login",
    "refusal",
    "repository",
    "retried",
    "said_of",
    "shown_endpoint",
]
