"""A repository that is pushed to: what is there already, whether it may be written to, and the one commit that changes it."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from weightspace.errors import CatalogError, FormatError
from weightspace.remote.client import status_of
from weightspace.remote.hub import HubAddress, endpoint, refusal, repository, retried
from weightspace.zoo.hub.shards import INDEX


@dataclass(frozen=True)
class There:
    """What a repository holds.

    Attributes:
        address: of the repository, with the branch if one was named.
        commit: that it is at; None where there is no repository.
        files: digest of each file, SHA-256 of large ones and git's own of others.
        is_private: whether others cannot see it; None where there is no repository.
        has_branch: whether the branch that was named exists.
    """

    address: HubAddress
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    is_private: bool | None = None
    has_branch: bool = True

    @property
    def new_branch(self) -> str | None:
        """The branch that was named and does not exist yet."""
        return None if self.has_branch else self.address.revision


def target(text: str, kind: str) -> HubAddress:
    """Read where something is to be pushed to.

    Args:
        text: `[hf:][datasets/]org/name[@branch]`.
        kind: dataset, or model where the address may say for itself that it is a dataset.

    Raises:
        FormatError: it is no address.
        CatalogError: it names no owner, a file, a space or a commit.
    """
    said = text.removeprefix("hf:")
    is_dataset = kind == "dataset" and not said.startswith("spaces/")
    address = HubAddress.dataset(said) if is_dataset else HubAddress.parse(f"hf:{said}")
    if address.path or address.kind == "space" or re.fullmatch(r"[0-9a-f]{40}", address.revision or ""):
        what = "a file" if address.path else "a space" if address.kind == "space" else "a commit"
        raise CatalogError(f"{address}: is the address of {what}, which nothing can be pushed to; write org/name, or org/name@branch")
    if "/" not in address.repo:  # the client would make it the user's own, and then not find it under this name
        raise CatalogError(f"{address}: does not say whose it is; write org/name, with your user name for one of your own")
    return address


def look(address: HubAddress, private: bool) -> There:
    """See what is there before anything is sent.

    Raises:
        FormatError: the Hub refuses.
        CatalogError: it is public, and was to be private.
    """
    found, has_branch = _found(address), True
    if found is None and address.revision is not None:
        found, has_branch = _found(replace(address, revision=None)), False
    if found is None:
        return There(address, has_branch=address.revision is None)
    _expect_private(address, found, private)
    digests = {one.rfilename: str((one.lfs or {}).get("sha256") or one.blob_id) for one in found.siblings or ()}
    return There(address, str(found.sha), digests, bool(found.private), has_branch)


def _found(address: HubAddress) -> Any:
    try:
        return repository(address)
    except FormatError as error:
        if error.reason == "missing":
            return None
        raise


def _expect_private(address: HubAddress, found: Any, private: bool) -> None:
    if private and found.private is False:
        raise CatalogError(
            f"{replace(address, revision=None)}: is there and public, so nothing was sent; say --public, or name another repository"
        )


def differing(there: There, files: Mapping[str, Path]) -> dict[str, Path]:
    """The files that the repository has not, or has otherwise."""
    return {name: path for name, path in files.items() if name not in there.files or there.files[name] != _digest(path, there.files[name])}


def _digest(path: Path, like: str) -> str:
    """The digest of a file, of the kind that another has: SHA-256, or what git names it by."""
    hasher = hashlib.sha256() if len(like) == 64 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


class Sender:
    """Sends files to one repository, large ones at once and all of them in one commit; what it meets there is what was looked at."""

    def __init__(self, there: There, private: bool) -> None:
        """See that the repository exists and may be written to.

        Raises:
            FormatError: the Hub refuses, or somebody else has pushed there meanwhile.
        """
        from huggingface_hub import HfApi

        self.address, self.operations = there.address, list[Any]()
        self.api = HfApi(endpoint=endpoint())
        self.parent = there.commit
        if there.commit is None:
            self._done(lambda: self.api.create_repo(self.address.repo, repo_type=self.address.kind, private=private, exist_ok=True))
            made = repository(replace(self.address, revision=None))
            _expect_private(self.address, made, private)  # it may have been made by somebody else between
            self.parent = str(made.sha)
            if any(one.rfilename in (INDEX, "model.safetensors") for one in made.siblings or ()):
                raise _overtaken(self.address)
        if not there.has_branch:
            self._done(
                lambda: self.api.create_branch(
                    self.address.repo, branch=str(self.address.revision), revision=self.parent, repo_type=self.address.kind, exist_ok=True
                )
            )

    def add(self, files: Iterable[tuple[str, Path]]) -> None:
        """Take files into the commit: path in the repository, and here."""
        from huggingface_hub import CommitOperationAdd

        self.operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files]

    def send(self, name: str, path: Path) -> None:
        """Take a large file into the commit, and send it now; it is removed here. Were the push to end, it need not be sent again.

        Raises:
            FormatError: the Hub refuses.
        """
        self.add([(name, path)])
        one, kind = self.operations[-1], self.address.kind
        self._done(lambda: self.api.preupload_lfs_files(self.address.repo, [one], repo_type=kind, revision=self.address.revision))
        if isinstance(one.path_or_fileobj, bytes):  # the client has let go of it; a Hub that wants it in the commit gets it there
            path.unlink(missing_ok=True)

    def commit(self) -> str | None:
        """Make the commit, and return it; None where there is nothing to commit.

        Raises:
            FormatError: the Hub refuses, or somebody else pushed meanwhile.
        """
        if not self.operations:
            return None
        message = f"{len(self.operations)} files from weightspace"
        try:
            made = retried(
                lambda: self.api.create_commit(
                    self.address.repo,
                    self.operations,
                    commit_message=message,
                    repo_type=self.address.kind,
                    revision=self.address.revision,
                    parent_commit=self.parent,
                )
            )
            return str(made.oid)
        except Exception as error:
            there = look(self.address, False) if status_of(error) == 412 else None
            if there is not None and all(_is_there(one, there) for one in self.operations):
                return str(there.commit)  # the commit was made, only its answer was lost
            raise self._refusal(error) from None

    def _done(self, call: Callable[[], Any]) -> Any:
        try:
            return retried(call)
        except Exception as error:
            raise self._refusal(error) from None

    def _refusal(self, error: Exception) -> FormatError:
        status = status_of(error)
        if status == 412:
            return _overtaken(self.address)
        if status == 401:
            return FormatError(
                f"{self.address}: the Hub does not know who is pushing", reason="unreadable", advice="log in with `hf auth login`"
            )
        return refusal(self.address, error)


def _is_there(operation: Any, there: There) -> bool:
    """Whether a file that was to be sent lies there already."""
    digest = there.files.get(operation.path_in_repo, "")
    if len(digest) == 64:
        return bool(operation.upload_info.sha256.hex() == digest)
    path = operation.path_or_fileobj
    return isinstance(path, Path | str) and _digest(Path(path), digest) == digest


def _overtaken(address: HubAddress) -> FormatError:
    return FormatError(f"{address}: somebody else pushed meanwhile", reason="unreadable", advice="push again")


__all__ = ["Sender", "There", "differing", "look", "target"]
