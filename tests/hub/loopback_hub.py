"""A hub on this machine's loopback address, for the real `huggingface_hub` client: standard library only, no network.

    with loopback_hub(folder) as url:
        HfApi(endpoint=url, token="any").upload_folder(...)

The client must run with HF_HUB_DISABLE_XET=1: chunked storage is not served here.
"""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from tests.hub.loopback_requests import Request, Settings
from tests.hub.loopback_store import HubError, Json, Repo, Store
from tests.hub.loopback_uploads import Uploads
from tests.hub.server import LoopbackServer


class Repositories(Request):
    """Endpoints about whole repositories: make, describe, list, move, delete, branch and tag."""

    def whoami(self) -> None:
        user = self.known_user()
        token = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
        self.answer(
            200, {"type": "user", "id": "0" * 24, "name": user, "fullname": user, "email": None, "orgs": [], "isPro": False, "auth": token}
        )

    def _named(self, asked: Json) -> Repo:
        name = asked.get("name") or ""
        return Repo(asked.get("type") or "model", name if "/" in name else f"{asked.get('organization') or self.settings.user}/{name}")

    def create(self) -> None:
        user, asked = self.known_user(), self.json()
        repo = self._named(asked)
        private = asked["visibility"] == "private" if asked.get("visibility") else bool(asked.get("private"))
        url = f"{self.base}{repo.url}"
        if not self.store.create(repo, private, user):
            raise HubError(409, "You already created this repo", body={"url": url})
        self.answer(200, {"url": url, "name": repo.name, "id": self.store.meta(repo)["_id"]})

    def delete(self) -> None:
        self.known_user()
        repo = self._named(self.json())
        self.store.meta(repo)
        shutil.rmtree(self.store.folder(repo))
        self.answer(200, {})

    def move(self) -> None:
        self.known_user()
        asked = self.json()
        kind = asked.get("type") or "model"
        source, target = Repo(kind, asked["fromRepo"]), Repo(kind, asked["toRepo"])
        with self.store.lock:
            meta = self.store.meta(source)
            if self.store.exists(target):
                raise HubError(409, "target exists")
            self.store.folder(target).parent.mkdir(parents=True, exist_ok=True)
            self.store.folder(source).replace(self.store.folder(target))
            self.store.save_meta(target, {**meta, "id": target.name})
        self.answer(200, {})

    def change_settings(self, repo: Repo) -> None:
        self.known_user()
        asked, meta = self.json(), self.store.meta(repo)
        if "visibility" in asked:
            meta["private"] = asked["visibility"] == "private"
        meta.update({key: asked[key] for key in ("private", "gated") if key in asked})
        self.store.save_meta(repo, meta)
        self.answer(200, {"private": meta["private"]})

    def auth_check(self, repo: Repo) -> None:
        self.readable(repo)
        self.answer(200, {})

    def validate_yaml(self) -> None:
        self.body()
        self.answer(200, {"errors": [], "warnings": []})

    def _described(self, repo: Repo, revision: str, *, full: bool, blobs: bool = False) -> Json:
        meta, commit = self.store.meta(repo), self.store.commit(repo, revision)
        tree: Json = commit["tree"]
        card = self.store.card(tree)
        bases = card.get("base_model") or []
        tags = [tag for tag in card.get("tags") or [] if isinstance(tag, str)]
        tags += [kind for kind in ("safetensors", "gguf") if any(path.endswith(f".{kind}") for path in tree)]
        tags += [f"base_model:{base}" for base in ([bases] if isinstance(bases, str) else bases)]
        described: Json = {
            "_id": meta["_id"], "id": repo.name, "modelId": repo.name, "author": repo.name.split("/")[0], "sha": commit["id"],
            "private": meta["private"], "disabled": False, "gated": meta.get("gated", False), "downloads": 0, "likes": 0,
            "createdAt": meta["createdAt"], "lastModified": commit["date"], "tags": tags, "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name") or ("peft" if "adapter_config.json" in tree else None),
        }  # fmt: skip
        if full:
            described["cardData"] = card or None
            described["siblings"] = [_sibling(path, entry, blobs) for path, entry in sorted(tree.items())]
            config = json.loads(self.store.text(tree.get("config.json")) or "{}")
            described["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
            described["usedStorage"] = sum(entry["size"] for entry in tree.values())
        return described

    def info(self, repo: Repo, revision: str = "main") -> None:
        self.answer(200, self._described(self.readable(repo), revision, full=True, blobs="blobs" in self.query))

    def listing(self, kind: str) -> None:
        search, author = self.asked("search").lower(), self.asked("author")
        wanted = [one for asked in self.query.get("filter", []) for one in asked.split(",")]
        found = []
        for repo in self.store.repos(kind):
            hidden = self.store.meta(repo)["private"] and self.user() is None
            if hidden or search not in repo.name.lower() or (author and repo.name.split("/")[0] != author):
                continue
            described = self._described(repo, "main", full="full" in self.query)
            if {*wanted} <= {*described["tags"], described["library_name"], described["pipeline_tag"]}:
                found.append(described)
        self._page(found, {})

    def _page(self, rows: list[Json], headers: dict[str, str]) -> None:
        """Answer with one page of a list, and where the next one is."""
        start, limit = int(self.asked("cursor", "0")), int(self.asked("limit", "1000"))
        if start + limit < len(rows):
            path, _, query = self.path.partition("?")
            kept = "".join(f"{key}={quote(value)}&" for key, values in parse_qs(query).items() if key != "cursor" for value in values)
            headers["Link"] = f'<{self.base}{path}?{kept}cursor={start + limit}>; rel="next"'
        self.answer(200, rows[start : start + limit], headers)

    def refs(self, repo: Repo) -> None:
        refs = self.store.refs(self.readable(repo))
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in refs["branches"].items()]
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": tag["sha"]} for name, tag in refs["tags"].items()]
        self.answer(200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def commits(self, repo: Repo, revision: str) -> None:
        sha, history = self.store.resolve(self.readable(repo), revision), []
        while sha:
            commit = self.store.commit(repo, sha)
            history.append({**{key: commit[key] for key in ("id", "title", "message", "date")}, "authors": [{"user": commit["author"]}]})
            sha = next(iter(commit["parents"]), "")
        self.answer(200, history)

    def branch(self, repo: Repo, ref: str) -> None:
        self.known_user()
        asked = self.json()
        with self.store.lock:
            refs = self.store.refs(repo)
            if self.command == "POST":
                if ref in refs["branches"]:
                    raise HubError(409, "Reference already exists")
                refs["branches"][ref] = self.store.resolve(repo, asked.get("startingPoint") or "main")
            elif ref == "main":
                raise HubError(403, "cannot delete main")
            elif refs["branches"].pop(ref, None) is None:
                raise HubError(404, "no such branch", "RevisionNotFound")
            self.store.save_refs(repo, refs)
        self.answer(200, {})

    def tag(self, repo: Repo, ref: str) -> None:
        """Add a tag (the address names the revision, the body the tag) or remove one (the address names the tag)."""
        self.known_user()
        asked = self.json()
        with self.store.lock:
            refs = self.store.refs(repo)
            if self.command == "POST":
                if asked["tag"] in refs["tags"]:
                    raise HubError(409, "Tag reference exists already")
                refs["tags"][asked["tag"]] = {"sha": self.store.resolve(repo, ref), "message": asked.get("message")}
            elif refs["tags"].pop(ref, None) is None:
                raise HubError(404, "no such tag", "RevisionNotFound")
            self.store.save_refs(repo, refs)
        self.answer(200, {})


class Downloads(Repositories):
    """Endpoints that list and hand out files."""

    def tree(self, repo: Repo, revision: str, path: str = "") -> None:
        commit = self.store.commit(self.readable(repo), revision)
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        recursive = self.claims("recursive")
        files, folders = [], set()
        for name, entry in sorted(commit["tree"].items()):
            parts = name[len(prefix) :].split("/") if name.startswith(prefix) else []
            folders |= {prefix + "/".join(parts[:depth]) for depth in range(1, len(parts)) if recursive or depth == 1}
            if len(parts) == 1 or (parts and recursive):
                files.append(_file(name, entry, commit if self.claims("expand") else None))
        if prefix and not files and not folders:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        self._page([*map(_folder, sorted(folders)), *files], {"X-Repo-Commit": commit["id"]})

    def paths_info(self, repo: Repo, revision: str) -> None:
        raw = self.body()
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(raw)["paths"] if is_json else parse_qs(raw.decode()).get("paths", [])
        tree = self.store.commit(self.readable(repo), revision)["tree"]
        found = []
        for path in [asked] if isinstance(asked, str) else asked:
            if path in tree:
                found.append(_file(path, tree[path]))
            elif any(name.startswith(path.rstrip("/") + "/") for name in tree):
                found.append(_folder(path.rstrip("/")))
        self.answer(200, found)

    def resolve(self, repo: Repo, revision: str, path: str) -> None:
        commit = self.store.commit(self.readable(repo), revision)
        entry, headers = commit["tree"].get(path), {"X-Repo-Commit": commit["id"]}
        if entry is None:
            raise HubError(404, "Entry not found", "EntryNotFound", headers=headers)
        tag = f'"{entry.get("lfs", entry)["oid"]}"'
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(entry["size"])}
        headers |= {"ETag": tag, "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.split('/')[-1])}"}
        self.send_file(self.store.path_of(entry), headers)

    def lfs_get(self, oid: str) -> None:
        place = self.store.lfs_path(oid)
        if not place.exists():
            raise HubError(404, "missing")
        self.send_file(place, {"ETag": f'"{oid}"'})


class Handler(Downloads, Uploads):
    """Every endpoint of the hub."""


def _sibling(path: str, entry: Json, blobs: bool) -> Json:
    if not blobs:
        return {"rfilename": path}
    large = {"sha256": entry["lfs"]["oid"], **{key: entry["lfs"][key] for key in ("size", "pointerSize")}} if "lfs" in entry else None
    return {"rfilename": path, "size": entry["size"], "blobId": entry["oid"], **({"lfs": large} if large else {})}


def _file(path: str, entry: Json, commit: Json | None = None) -> Json:
    last = {"lastCommit": {key: commit[key] for key in ("id", "title", "date")}} if commit else {}
    return {"type": "file", "path": path, **entry, **last}


def _folder(path: str) -> Json:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _routes() -> list[tuple[str, re.Pattern[str], Callable[..., None]]]:
    kind, oid, revision = "(?P<kind>models|datasets|spaces)", "(?P<oid>[0-9a-f]{64})", "(?P<revision>[^/]+)"
    repo = "(?P<name>[^/]+/[^/]+)"
    api = f"/api/{kind}/{repo}"
    table: list[tuple[str, str, Callable[..., Any]]] = [
        ("GET", "/api/whoami-v2", Handler.whoami),
        ("POST", "/api/repos/create", Handler.create),
        ("DELETE", "/api/repos/delete", Handler.delete),
        ("POST", "/api/repos/move", Handler.move),
        ("POST", "/api/validate-yaml", Handler.validate_yaml),
        ("GET", f"/api/{kind}", Handler.listing),
        ("GET HEAD", api, Handler.info),
        ("GET HEAD", f"{api}/revision/{revision}", Handler.info),
        ("GET", f"{api}/auth-check", Handler.auth_check),
        ("PUT", f"{api}/settings", Handler.change_settings),
        ("GET HEAD", f"{api}/tree/{revision}(?:/(?P<path>.*))?", Handler.tree),
        ("POST", f"{api}/paths-info/{revision}", Handler.paths_info),
        ("GET", f"{api}/refs", Handler.refs),
        ("GET", f"{api}/commits/{revision}", Handler.commits),
        ("POST DELETE", f"{api}/branch/(?P<ref>[^/]+)", Handler.branch),
        ("POST DELETE", f"{api}/tag/(?P<ref>[^/]+)", Handler.tag),
        ("POST", f"{api}/preupload/{revision}", Handler.preupload),
        ("POST", f"{api}/commit/{revision}", Handler.commit),
        ("POST", rf"/(?:{kind}/)?(?P<name>[^/]+/[^/]+?)\.git/info/lfs/objects/batch", Handler.lfs_batch),
        ("PUT", f"/lfs-store/{oid}", Handler.lfs_put),
        ("GET HEAD", f"/lfs-store/{oid}", Handler.lfs_get),
        ("PUT", rf"/lfs-store/{oid}/part/(?P<number>\d+)", Handler.lfs_part),
        ("POST", f"/lfs-store/{oid}/complete", Handler.lfs_complete),
        ("POST", "/lfs-verify", Handler.lfs_verify),
        ("GET HEAD", f"/(?:{kind}/)?{repo}/resolve/{revision}/(?P<path>.+)", Handler.resolve),
    ]
    return [(methods, re.compile(pattern), endpoint) for methods, pattern, endpoint in table]


@contextmanager
def loopback_hub(folder: Path, settings: Settings | None = None) -> Iterator[str]:
    """Serve a hub from a folder on a free port of 127.0.0.1; yields its address."""
    known = {"store": Store(folder), "settings": settings or Settings(), "routes": _routes()}
    server = LoopbackServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), known))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
