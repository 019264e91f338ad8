"""A local HTTP server that takes repositories as the Hub does: who a token belongs to, a new repository, one commit."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def user(role: str = "write", *, orgs: dict[str, str] | None = None, scoped: list[Any] | None = None) -> dict[str, Any]:
    """What the Hub answers to `whoami` with a token of this role."""
    token = {"displayName": "t", "role": role, **({"fineGrained": {"scoped": scoped}} if scoped is not None else {})}
    members = [{"name": name, "roleInOrg": in_org} for name, in_org in (orgs or {}).items()]
    return {"type": "user", "name": "ada", "orgs": members, "auth": {"type": "access_token", "accessToken": token}}


@dataclass
class Hub:
    """What was asked of it, and what it holds."""

    who: dict[str, Any] | None = None  # None: the token is not accepted
    repositories: dict[str, bool] = field(default_factory=dict)  # name → whether it is private
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    failing: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # part of a path → statuses and words
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # (method, path, Authorization)
    address: str = ""

    @property
    def changes(self) -> list[str]:
        """The requests that change something."""
        return [f"{method} {path}" for method, path, _ in self.asked if method != "GET" and "validate" not in path]


@contextmanager
def writable_hub(hub: Hub) -> Iterator[Hub]:
    """Serves the stand-in; its address is for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self._begin("GET")
        if path is None:
            return
        if path == "/api/whoami-v2":
            return self._json(self.hub.who)
        name = path.removeprefix("/api/models/").removesuffix("/revision/main")
        if name not in self.hub.repositories:
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        files = self.hub.files.get(name, {})
        siblings = [{"rfilename": file, "size": len(data), "blobId": "0"} for file, data in files.items()]
        self._json({"id": name, "sha": COMMIT, "private": self.hub.repositories[name], "siblings": siblings})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = self._begin("POST")
        if path is None:
            return
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        name = path.removeprefix("/api/models/").rpartition("/preupload/")[0]
        if name:
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            return self._json({"files": [{**each, "shouldIgnore": False} for each in files]})
        name = path.removeprefix("/api/models/").rpartition("/commit/")[0]
        lines = [json.loads(line) for line in body.decode().splitlines()]
        found = self.hub.files.setdefault(name, {})
        for line in lines:
            if line["key"] == "file":
                found[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _create(self, asked: dict[str, Any]) -> None:
        owner = asked.get("organization") or "ada"
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repositories:
            return self._json(
                {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"}, 409
            )
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repositories[name] = bool(private)
        self._json({"url": f"{self.hub.address}/{name}", "name": name, "id": "1"})

    def _begin(self, method: str) -> str | None:
        """The path; None where the request has been refused."""
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((method, path, self.headers["Authorization"] or ""))
        for part, statuses in self.hub.failing.items():
            if part in path and statuses:
                status, words = statuses.pop(0)
                self._json({"error": words}, status)
                return None
        if self.hub.who is None:
            self._json({"error": "Invalid user token."}, 401)
            return None
        return path

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def written(folder: Path, **files: str) -> Path:
    """A folder with these files."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
