"""A stand-in of the Hub's HTTP answers: one repository's files, as `huggingface_hub` asks for them."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[str]:
    """Serves `owner/name` (or `datasets/owner/name`) → folder; yields the address for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"repositories": repositories}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    repositories: dict[str, Path]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        path = unquote(urlsplit(self.path).path)
        name = next((name for name in self.repositories if f"/api/{_kind(name)}/paths-info/" in path), None)
        if name is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        entries = {entry["path"]: entry for entry in self._entries(name)}
        self._json([entries[path] for path in asked.get("paths", []) if path in entries])

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        for name, folder in self.repositories.items():
            if path.startswith(f"/api/{_kind(name)}"):
                if "/tree/" in path:
                    return self._json(self._entries(name))
                siblings = [{"rfilename": entry["path"]} for entry in self._entries(name)]
                return self._json({"id": name.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings})
            _, resolve, file = path.partition(f"/{name}/resolve/")
            if resolve:
                target = folder / file.partition("/")[2]
                if target.is_file():
                    return self._file(target, body=body)
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _entries(self, name: str) -> list[dict[str, object]]:
        folder = self.repositories[name]
        return [
            {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": _etag(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def _file(self, path: Path, *, body: bool) -> None:
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT}
        data = path.read_bytes()
        self._send(200, data, headers, body=body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _kind(name: str) -> str:
    return name if name.startswith("datasets/") else f"models/{name}"


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
