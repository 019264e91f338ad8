"""A local HTTP server that answers as the Hub does for the files of repositories.

It is its own data set viewer: each `NAME.jsonl` of a data set is the split NAME of the config `default`.
"""

import hashlib
import json
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_stand_in"

Reply = tuple[int, dict[str, str], object]  # status, headers, JSON or bytes


@contextmanager
def hub(
    repositories: dict[str, Path],
    *,
    gated: Container[str] = (),
    private: Container[str] = (),
    older: dict[tuple[str, str], Path] | None = None,
    newest: str = COMMIT,
) -> Iterator[str]:
    """Serve the folders of repositories, by `owner/name` or `datasets/owner/name`; yields the address for HF_ENDPOINT.

    Without TOKEN, a request receives only the facts of gated repositories, and nothing of private ones. With `older`,
    the folders by (name, commit) of commits before `newest`, a commit that is neither is refused.
    """
    attributes = {"repositories": repositories, "gated": gated, "private": private, "older": older, "newest": newest}
    with _served(type("Handler", (_Handler,), attributes)) as address:
        yield address


def at(address: str, monkeypatch: pytest.MonkeyPatch, *, token: str = "") -> None:
    """Make this process use the Hub at `address`, online and without a proxy."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_ENDPOINT", address)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)


@contextmanager
def scripted(replies: dict[str, Reply]) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Serve a reply per path, and 404 for others; yields the address and the requests as (path, Authorization)."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            status, headers, body = replies.get(self.path) or replies.get(self.path.partition("?")[0]) or (404, {}, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        log_message = _Handler.log_message

    with _served(Handler) as address:
        yield address, seen


@contextmanager
def _served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    repositories: dict[str, Path]
    gated: Container[str]
    private: Container[str]
    older: dict[tuple[str, str], Path] | None
    newest: str
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        path = unquote(urlsplit(self.path).path)
        name = next((name for name in self.repositories if f"/api/{_kind(name)}/paths-info/" in path), None)
        if name is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        entries = {entry["path"]: entry for entry in self._entries(name, path.rpartition("/")[2])}
        self._json([entries[path] for path in request.get("paths", []) if path in entries])

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in ("/splits", "/first-rows", "/size"):
            return self._view(path)
        for name in self.repositories:
            _, resolve, file = path.partition(f"/{name}/resolve/")
            facts = path.startswith(f"/api/{_kind(name)}")
            if (facts or resolve) and self._refuses(name, facts=not resolve and not path.endswith("/auth-check")):
                return None
            revision = _revision(path, file)
            if (facts or resolve) and not (place := self._folder(name, revision)):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if facts:
                if "/tree/" in path:
                    return self._json(self._entries(name, revision))
                return self._json({} if path.endswith("/auth-check") else self._facts(name, revision))
            if resolve:
                target, commit = place / file.partition("/")[2], self._commit(name, revision)
                if target.is_file():
                    return self._file(target, commit, body=body)
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _folder(self, name: str, revision: str) -> Path | None:
        """The files of a repository at a revision; None if there is none."""
        if (folder := (self.older or {}).get((name, revision))) is not None:
            return folder
        is_known = self.older is None or revision in ("", "main", self.newest) or len(revision) != len(COMMIT)
        return self.repositories[name] if is_known else None

    def _commit(self, name: str, revision: str) -> str:
        return revision if (name, revision) in (self.older or {}) else self.newest

    def _facts(self, name: str, revision: str) -> dict[str, object]:
        siblings = [{"rfilename": entry["path"]} for entry in self._entries(name, revision)]
        facts = {"id": name.removeprefix("datasets/"), "sha": self._commit(name, revision), "siblings": siblings}
        return {**facts, "gated": "manual"} if name in self.gated else facts

    def _refuses(self, name: str, *, facts: bool) -> bool:
        """Refuse a request without the token; returns whether it has."""
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return False
        if name in self.private:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif name in self.gated and not facts:
            self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        return name in self.private or (name in self.gated and not facts)

    def _view(self, path: str) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        name = f"datasets/{query.get('dataset')}"
        if name not in self.repositories:
            return self._send(404, b'{"error": "The dataset does not exist."}', {})
        if self._refuses(name, facts=False):
            return None
        files = sorted(self.repositories[name].glob("*.jsonl"))
        splits = [{"dataset": query["dataset"], "config": "default", "split": file.stem} for file in files]
        if path == "/splits":
            return self._json({"splits": splits, "pending": [], "failed": []})
        rows = {file.stem: [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files}
        if path == "/size":
            return self._json({"size": {"splits": [{**each, "num_rows": len(rows[each["split"]])} for each in splits]}})
        first = [{"row_idx": 0, "row": row, "truncated_cells": []} for row in rows.get(query.get("split", ""), [])[:1]]
        return self._json({"rows": first}) if first else self._send(404, b'{"error": "Not found."}', {})

    def _entries(self, name: str, revision: str = "") -> list[dict[str, object]]:
        folder = self._folder(name, revision) or self.repositories[name]
        return [
            {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": _etag(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def _file(self, path: Path, commit: str, *, body: bool) -> None:
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit}
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


def _revision(path: str, file: str) -> str:
    """The revision that a request names; empty for the newest."""
    for part in ("/tree/", "/revision/"):
        if part in path:
            return path.partition(part)[2].partition("/")[0]
    return file.partition("/")[0]


def _kind(name: str) -> str:
    return name if name.startswith("datasets/") else f"models/{name}"


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
