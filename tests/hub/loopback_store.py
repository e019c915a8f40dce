"""The content behind the loopback hub: repositories, commits and blobs in one folder.

    blobs/<git sha1>    lfs/aa/bb/<sha256>    repos/<kind>/<org>/<name>/{meta,refs}.json + commits/<sha>.json

A commit is a full manifest (path: size, oid, lfs), so that every revision costs one read; equal content is stored once.
"""

import hashlib
import json
import re
import tempfile
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

LFS_SUFFIXES = tuple(
    ".safetensors .bin .pt .pth .ckpt .gguf .npz .npy .onnx .parquet .arrow .h5 .msgpack .pkl .zip .gz .tar .duckdb".split()
)
REPO_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class HubError(Exception):
    """A refusal with the status and headers that the client turns into its typed errors."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body, self.headers = dict(body or {}), dict(headers or {})


@dataclass(frozen=True)
class Repo:
    """One repository: its kind (model, dataset, space) and its name (org/name)."""

    kind: str
    name: str

    @property
    def url(self) -> str:
        return f"/{'' if self.kind == 'model' else self.kind + 's/'}{self.name}"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def safe_path(path: str) -> str:
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..", ".git") for part in parts):
        raise HubError(400, f"invalid path {path!r}")
    return path


def write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        stream.write(data)
    Path(stream.name).replace(path)


class Store:
    """Everything that the hub keeps; `lock` guards each change of refs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        for folder in ("blobs", "lfs", "repos", "incoming"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def lfs_path(self, oid: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", oid):
            raise HubError(400, "bad oid")
        return self.root / "lfs" / oid[:2] / oid[2:4] / oid

    def keep(self, incoming: Path, oid: str, digest: str) -> None:
        """Move an upload to its place, if it is what it was announced as."""
        if digest != oid:
            raise HubError(422, f"sha256 mismatch: expected {oid}, received {digest}")
        place = self.lfs_path(oid)
        place.parent.mkdir(parents=True, exist_ok=True)
        incoming.replace(place)

    def put(self, data: bytes) -> Json:
        """Store a small file; returns its entry in a tree."""
        oid = git_oid(data)
        if not (self.root / "blobs" / oid).exists():
            write_atomically(self.root / "blobs" / oid, data)
        return {"size": len(data), "oid": oid}

    def lfs_entry(self, oid: str) -> Json:
        place = self.lfs_path(oid)
        if not place.exists():
            raise HubError(400, f"LFS object {oid} was never uploaded")
        size = place.stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
        return {"size": size, "oid": git_oid(pointer), "lfs": {"oid": oid, "size": size, "pointerSize": len(pointer)}}

    def path_of(self, entry: Json) -> Path:
        return self.lfs_path(entry["lfs"]["oid"]) if "lfs" in entry else self.root / "blobs" / str(entry["oid"])

    def text(self, entry: Json | None) -> str | None:
        return None if entry is None or "lfs" in entry else self.path_of(entry).read_text("utf-8", "replace")

    def folder(self, repo: Repo) -> Path:
        return self.root / "repos" / repo.kind / Path(*repo.name.split("/"))

    def exists(self, repo: Repo) -> bool:
        return (self.folder(repo) / "meta.json").is_file()

    def _load(self, repo: Repo, name: str) -> Json:
        try:
            loaded: Json = json.loads((self.folder(repo) / name).read_bytes())
        except FileNotFoundError:
            raise HubError(404, "Repository not found", "RepoNotFound") from None
        return loaded

    def _save(self, repo: Repo, name: str, value: Json) -> None:
        write_atomically(self.folder(repo) / name, json.dumps(value).encode())

    def meta(self, repo: Repo) -> Json:
        return self._load(repo, "meta.json")

    def save_meta(self, repo: Repo, meta: Json) -> None:
        self._save(repo, "meta.json", meta)

    def refs(self, repo: Repo) -> Json:
        return self._load(repo, "refs.json")

    def save_refs(self, repo: Repo, refs: Json) -> None:
        self._save(repo, "refs.json", refs)

    def commit(self, repo: Repo, revision: str) -> Json:
        return self._load(repo, f"commits/{self.resolve(repo, revision)}.json")

    def resolve(self, repo: Repo, revision: str) -> str:
        """Find the commit that a branch, a tag or the beginning of a hash means."""
        self.meta(repo)
        refs = self.refs(repo)
        for name in (revision, revision.removeprefix("refs/heads/"), revision.removeprefix("refs/tags/")):
            if name in refs["branches"]:
                return str(refs["branches"][name])
            if name in refs["tags"]:
                return str(refs["tags"][name]["sha"])
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = list((self.folder(repo) / "commits").glob(f"{revision}*.json"))
            if len(found) == 1:
                return found[0].stem
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add_commit(self, repo: Repo, parents: list[str], title: str, message: str, tree: Json, author: str) -> str:
        commit = {"parents": parents, "title": title, "message": message, "date": now(), "author": author, "tree": tree}
        sha = hashlib.sha1(json.dumps(commit, sort_keys=True).encode() + uuid.uuid4().bytes).hexdigest()
        self._save(repo, f"commits/{sha}.json", {"id": sha, **commit})
        return sha

    def create(self, repo: Repo, private: bool, author: str) -> bool:
        """Make a repository with its first commit; False when there is one already."""
        if any(not REPO_NAME.fullmatch(part) or ".." in part or "--" in part for part in repo.name.split("/")):
            raise HubError(400, f"invalid repo name {repo.name!r}")
        with self.lock:
            if self.exists(repo):
                return False
            attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
            sha = self.add_commit(repo, [], "initial commit", "", {".gitattributes": self.put(attributes)}, author)
            self.save_refs(repo, {"branches": {"main": sha}, "tags": {}})
            self.save_meta(repo, {"id": repo.name, "private": private, "createdAt": now(), "_id": uuid.uuid4().hex[:24]})
        return True

    def repos(self, kind: str) -> list[Repo]:
        base = self.root / "repos" / kind
        return [Repo(kind, str(path.parent.relative_to(base))) for path in sorted(base.rglob("meta.json"))]

    def card(self, tree: Json) -> Json:
        """Front matter of a repository's README.md."""
        found = re.match(r"---\r?\n(.*?)\r?\n---", self.text(tree.get("README.md")) or "", re.S)
        read = yaml.safe_load(found[1]) if found else None
        return read if isinstance(read, dict) else {}
