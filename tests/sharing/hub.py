"""A hub on a local port that takes uploads: repositories, branches, pull requests, large files, atomic commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import HfApi, constants

TOKEN = "hf_test"
LICENSES = {"mit", "apache-2.0"}


@dataclass
class Repository:
    """Branches with their commits; a commit is (id, path -> content)."""

    private: bool = False
    branches: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    pulls: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.branches["main"][-1][1]

    @property
    def commits(self) -> int:
        """How many there are on main besides the first, empty one."""
        return len(self.branches["main"]) - 1

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        history = self.branches.setdefault(branch, [])
        oid = hashlib.sha1(f"{branch}{len(history)}{sorted(files)}".encode()).hexdigest()
        history.append((oid, files))
        return oid


@dataclass
class Hub:
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Content by SHA-256, which outlives a push that is broken off."""
    requests: list[str] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    """Repositories that the user cannot write."""
    before: Callable[[int, str], None] = lambda number, request: None
    """Called before a request is looked at; what it raises ends the connection."""
    after: Callable[[int, str], None] = lambda number, request: None
    """Called when it was done, before the answer."""
    broken: str | None = None
    """Requests with this in them get the status 500."""
    endpoint: str = ""

    def create(self, name: str, files: dict[str, bytes] | None = None, private: bool = False) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.commit(files or {})
        return repository

    def serve(self) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                self.respond(hub)

            do_HEAD = do_POST = do_PUT = do_GET

        class Server(ThreadingHTTPServer):
            def handle_error(self, *args: Any) -> None:
                """A client that is gone is what some tests are about."""

        server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def use(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> HfApi:
        """A client of this hub; xet, which needs servers of its own, gives way to plain large files."""
        for name, value in (
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_CACHE", str(folder / "cache")),
            ("HF_TOKEN_PATH", str(folder / "token")),
        ):
            monkeypatch.setattr(constants, name, value)
        return HfApi(endpoint=self.endpoint, token=TOKEN)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def respond(self, hub: Hub) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        request = f"{self.command} {path}"
        hub.requests.append(request)
        number = len(hub.requests)
        hub.before(number, request)
        if hub.broken and hub.broken in request:
            return self.send(500, {"error": "out of order"})
        if not path.startswith("/large/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid username or password."})
        for pattern, method in (
            ("/api/whoami-v2", self.whoami),
            ("/api/validate-yaml", self.validate),
            ("/api/repos/create", self.create),
            (r"/large/([0-9a-f]+)", self.store),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            if match := re.fullmatch(pattern, path):
                status, answer = method(hub, *match.groups())
                hub.after(number, request)
                return self.send(status, answer)
        return self.send(404, {"error": f"unknown request {request}"})

    def send(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        error = answer.get("code") if isinstance(answer, dict) else None
        extra = getattr(self, "extra", {}) | ({"X-Error-Code": error} if error else {})
        for name, value in {"Content-Length": str(len(content)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.extra = {}

    def whoami(self, hub: Hub) -> tuple[int, Any]:
        return 200, {"name": "me", "type": "user"}

    def validate(self, hub: Hub) -> tuple[int, Any]:
        content = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        data = yaml.safe_load(head[1]) if head else {}
        if data.get("license", "mit") not in LICENSES:
            return 400, {"errors": [{"message": '"license" must be one of mit, apache-2.0'}]}
        return 200, {"errors": [], "warnings": []}

    def create(self, hub: Hub) -> tuple[int, Any]:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in hub.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{hub.endpoint}/{name}"}
        if name in hub.closed:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        hub.create(name, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return 200, {"url": f"{hub.endpoint}/{name}", "name": name}

    def branch(self, hub: Hub, name: str, branch: str) -> tuple[int, Any]:
        branches = hub.repositories[name].branches
        if branch in branches:
            return 409, {"error": "Reference already exists"}
        branches[branch] = list(branches["main"])
        return 200, {}

    def info(self, hub: Hub, name: str, revision: str | None) -> tuple[int, Any]:
        if name not in hub.repositories:
            return 404, {"error": "Repository not found", "code": "RepoNotFound"}
        repository = hub.repositories[name]
        if (revision or "main") not in repository.branches:
            return 404, {"error": "Invalid rev id", "code": "RevisionNotFound"}
        oid, files = repository.branches[revision or "main"][-1]
        siblings = [{"rfilename": file} for file in files]
        return 200, {"id": name, "sha": oid, "private": repository.private, "siblings": siblings, "tags": []}

    def resolve(self, hub: Hub, name: str, revision: str, file: str) -> tuple[int, Any]:
        history = [commit for commits in hub.repositories[name].branches.values() for commit in commits]
        oid, files = next((commit for commit in history if commit[0] == revision), history[-1])
        if file not in files:
            return 404, {"error": "no such file", "code": "EntryNotFound"}
        self.extra = {"X-Repo-Commit": oid, "ETag": f'"{_git_oid(files[file])}"'}
        return 200, files[file]

    def preupload(self, hub: Hub, name: str, revision: str) -> tuple[int, Any]:
        if name in hub.closed:
            return 403, {"error": "You have read access but not the required permissions to push"}
        there = hub.repositories[name].branches[revision][-1][1]
        answer = []
        for one in json.loads(self.body)["files"]:
            mode = "lfs" if one["path"].endswith((".safetensors", ".png")) else "regular"
            content = there.get(one["path"])
            oid = (
                None if content is None else hashlib.sha256(content).hexdigest() if mode == "lfs" else _git_oid(content)
            )
            answer.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": answer}

    def batch(self, hub: Hub, name: str) -> tuple[int, Any]:
        objects = []
        for one in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{hub.endpoint}/large/{one['oid']}"}}
            objects.append(one | ({} if one["oid"] in hub.large else {"actions": upload}))
        return 200, {"transfer": "basic", "objects": objects}

    def store(self, hub: Hub, oid: str) -> tuple[int, Any]:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return 400, {"error": "content and name differ"}
        hub.large[oid] = self.body
        return 200, {}

    def commit(self, hub: Hub, name: str, revision: str) -> tuple[int, Any]:
        repository = hub.repositories[name]
        parent, before = repository.branches[revision][-1]
        files = dict(before)
        for line in self.body.splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "header" and value.get("parentCommit", parent) != parent:
                return 412, {"error": "A commit has happened since. Please refresh and try again."}
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif one["key"] == "deletedFile":
                del files[value["path"]]
        url = f"{hub.endpoint}/{name}"
        if self.query.get("create_pr"):
            repository.pulls.append(files)
            number = len(repository.pulls)
            oid = "0" * 40
            pull = {"pullRequestUrl": f"{url}/discussions/{number}"}
            return 200, {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", **pull}
        oid = repository.commit(files, revision)
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}"}

    def log_message(self, *args: Any) -> None:
        pass


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
