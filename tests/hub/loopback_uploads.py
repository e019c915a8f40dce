"""The way up: preupload, the large-file batch, its parts, and the commit."""

import base64
import fnmatch
import hashlib
import hmac
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.hub.loopback_requests import CHUNK, Request
from tests.hub.loopback_store import LFS_SUFFIXES, HubError, Json, Repo, safe_path


class Uploads(Request):
    """Endpoints that take content."""

    def preupload(self, repo: Repo, revision: str) -> None:
        """Say of each file whether it goes to large-file storage, and what is there already."""
        self.known_user()
        asked = self.json()
        commit = self.store.commit(repo, revision)
        ignore = asked.get("gitIgnore") or self.store.text(commit["tree"].get(".gitignore")) or ""
        patterns = [line.strip().rstrip("/") for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
        files = [self._planned(file, commit["tree"].get(file["path"]), patterns) for file in asked["files"]]
        self.answer(200, {"files": files, "commitOid": commit["id"]})

    def _planned(self, file: Json, present: Json | None, patterns: list[str]) -> Json:
        path = file["path"]
        is_binary = b"\0" in base64.b64decode(file.get("sample") or "")
        is_large = path.lower().endswith(LFS_SUFFIXES) or file["size"] > self.settings.lfs_threshold or is_binary
        ignored = any(fnmatch.fnmatch(path, one) or fnmatch.fnmatch(Path(path).name, one) or path.startswith(f"{one}/") for one in patterns)
        plan: Json = {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": ignored}
        if present:  # lets the client skip a file that did not change
            plan["oid"] = present.get("lfs", present)["oid"]
        return plan

    def lfs_batch(self, repo: Repo) -> None:
        asked = self.json()
        self.store.meta(repo)
        if asked.get("operation") == "upload":
            self.known_user()
        in_parts = "multipart" in asked.get("transfers", []) and self.settings.multipart > 0
        objects = [self._transfer(one["oid"], one["size"], str(asked.get("operation")), in_parts) for one in asked["objects"]]
        self.answer(200, {"transfer": "multipart" if in_parts else "basic", "objects": objects}, type="application/vnd.git-lfs+json")

    def _transfer(self, oid: str, size: int, operation: str, in_parts: bool) -> Json:
        place = self.store.lfs_path(oid)
        described: Json = {"oid": oid, "size": size, "authenticated": True}
        if operation == "download":
            if place.exists():
                return {**described, "actions": {"download": {"href": f"{self.base}/lfs-store/{oid}"}}}
            return {**described, "error": {"code": 404, "message": "missing"}}
        if place.exists() and place.stat().st_size == size:
            return described
        signed = f"size={size}&sig={self._signature(oid, str(size))}"
        upload: Json = {"href": f"{self.base}/lfs-store/{oid}?{signed}", "header": {}}
        part = self.settings.multipart
        if in_parts and size > part:
            count = -(-size // part)
            parts = {str(n): f"{self.base}/lfs-store/{oid}/part/{n}?{signed}" for n in range(1, count + 1)}
            upload = {"href": f"{self.base}/lfs-store/{oid}/complete?{signed}", "header": {"chunk_size": str(part), **parts}}
        return {**described, "actions": {"upload": upload, "verify": {"href": f"{self.base}/lfs-verify", "header": {}}}}

    def _signature(self, oid: str, size: str) -> str:
        return hmac.new(self.settings.secret, f"{oid}:{size}".encode(), "sha256").hexdigest()

    def _signed_size(self, oid: str) -> int:
        size = self.asked("size", "0")
        if not hmac.compare_digest(self.asked("sig"), self._signature(oid, size)):
            raise HubError(403, "bad signature")
        return int(size)

    def _receive(self, oid: str, size: int, data: Iterable[bytes]) -> None:
        digest, received = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self.store.root / "incoming", delete=False) as stream:
            for chunk in data:
                digest.update(chunk)
                received += len(chunk)
                stream.write(chunk)
        incoming = Path(stream.name)
        try:
            if received != size:
                raise HubError(422, f"size mismatch: expected {size} bytes, received {received}")
            self.store.keep(incoming, oid, digest.hexdigest())
        finally:
            incoming.unlink(missing_ok=True)

    def lfs_put(self, oid: str) -> None:
        self._receive(oid, self._signed_size(oid), self.chunks())
        self.answer(200, None, {"ETag": f'"{oid}"'})

    def _part(self, oid: str, number: int) -> Path:
        return self.store.root / "incoming" / f"{oid}.part{number}"

    def lfs_part(self, oid: str, number: str) -> None:
        self._signed_size(oid)
        digest = hashlib.md5()
        with self._part(oid, int(number)).open("wb") as stream:
            for chunk in self.chunks():
                digest.update(chunk)
                stream.write(chunk)
        self.answer(200, None, {"ETag": f'"{digest.hexdigest()}"'})

    def lfs_complete(self, oid: str) -> None:
        size = self._signed_size(oid)
        numbers = sorted(part["partNumber"] for part in self.json()["parts"])
        self._receive(oid, size, (chunk for number in numbers for chunk in _chunks(self._part(oid, number))))
        for number in numbers:
            self._part(oid, number).unlink()
        self.answer(200, {"ok": True})

    def lfs_verify(self) -> None:
        asked = self.json()
        place = self.store.lfs_path(asked["oid"])
        if not place.exists() or place.stat().st_size != asked["size"]:
            raise HubError(404, "object missing")
        self.answer(200, {})

    def commit(self, repo: Repo, revision: str) -> None:
        """Take one commit, a line an operation; the branch moves only from the parent that the client saw."""
        user = self.known_user()
        lines = [json.loads(line) for line in self.body().split(b"\n") if line.strip()]
        header: Json = next((line["value"] for line in lines if line["key"] == "header"), {})
        with self.store.lock:
            refs = self.store.refs(repo)
            if revision not in refs["branches"]:
                raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            parent = refs["branches"][revision]
            if header.get("parentCommit") not in (None, parent):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(self.store.commit(repo, parent)["tree"])
            for line in lines:
                if line["key"] != "header":
                    self._change(tree, line["key"], line["value"])
            sha = self.store.add_commit(repo, [parent], header.get("summary", ""), header.get("description", ""), tree, user)
            refs["branches"][revision] = sha
            self.store.save_refs(repo, refs)
        self.answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.base}{repo.url}/commit/{sha}", "hookOutput": ""})

    def _change(self, tree: Json, operation: str, value: dict[str, Any]) -> None:
        path = safe_path(value["path"].rstrip("/"))
        if operation == "file":
            content = value["content"]
            tree[path] = self.store.put(base64.b64decode(content) if value.get("encoding") == "base64" else content.encode())
        elif operation == "lfsFile":
            tree[path] = self.store.lfs_entry(value["oid"])
        elif operation in ("deletedFile", "deletedFolder"):
            gone = [name for name in tree if name == path or (operation == "deletedFolder" and name.startswith(f"{path}/"))]
            if not gone:
                raise HubError(404, f"{path} does not exist", "EntryNotFound")
            for name in gone:
                del tree[name]
        else:
            raise HubError(400, f"unknown operation {operation}")


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as stream:
        while data := stream.read(CHUNK):
            yield data
