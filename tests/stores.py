"""A real S3 server for tests, a proxy that puts faults into its network, and checkpoints that cost nothing to write."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dimba.common.contract import COMPLETE_FILE, SAVING_FOLDER
from dimba.common.output_store import MANIFEST
from dimba.trainers.store.bundles import manifest_of, step_in
from dimba.trainers.store.filesystem import Store, open_store
from tests.conftest import REPOSITORY

SERVER = REPOSITORY / ".venv" / "moto" / "bin" / "moto_server"
LOGIN = {"AWS_ACCESS_KEY_ID": "testing-key", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_REGION": "us-east-1"}
BUCKET = "s3://bucket/runs"
PACE = "0.01"  # ten minutes in 6 s
REFUSALS = {  # of S3: (status, code)
    "no-right": (403, "AccessDenied"),
    "wrong-key": (403, "InvalidAccessKeyId"),
    "wrong-secret": (403, "SignatureDoesNotMatch"),
    "expired": (400, "ExpiredToken"),
    "broken": (500, "InternalError"),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[int]:
    """The port of a server with an empty bucket."""
    if not SERVER.exists():
        if os.environ.get("DIMBA_REQUIRE_S3"):
            pytest.fail(f"no {SERVER}: `make .venv/.moto`")
        pytest.skip("NO S3 TESTED: `make .venv/.moto` installs the server")
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([SERVER, "-H", host, "-p", str(port)], **quiet)
    try:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT"))
                break
            time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()


class FaultyNetwork:
    """A proxy in front of a server; `fault` is what it does to new connections, and to open ones from then on.

    `refuse`, `hang` (nothing is answered), `cut` (the connection ends in the middle of a request's body), `shorten` (in
    the middle of an answer's), `slow`, or one of REFUSALS. `only` limits a refusal to requests with that method.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.fault, self.only = "", ""
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.fault == "refuse":
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                threading.Thread(target=self._copy, args=(server, client, "shorten"), daemon=True).start()
                self._copy(client, server, "cut")

    def _copy(self, source: socket.socket, target: socket.socket, cutting: str) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.fault in (cutting, "refuse"):
                    target.sendall(data[: len(data) // 2])
                    break
                if self.fault == "hang":
                    time.sleep(3600)
                if self.fault == "slow":
                    time.sleep(0.05)
                if cutting == "cut" and self.fault in REFUSALS and self._is_meant(data):
                    source.sendall(_refusal(*REFUSALS[self.fault]))
                    break
                self.requests += cutting == "cut" and data.split(b" ")[0] in (b"PUT", b"POST", b"GET")
                target.sendall(data)
            for end in (source, target):
                end.shutdown(socket.SHUT_RDWR)

    def _is_meant(self, data: bytes) -> bool:
        return not self.only or data.startswith(self.only.encode())


def _refusal(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>refused by the test</Message></Error>".encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def save_checkpoint(output: Path, step: int, *, best: int | None = None, size: int = 200_000, keep: int = 2) -> Path:
    """Writes a complete checkpoint as the trainer does: aside, then renamed; older ones are removed."""
    aside, place = output / SAVING_FOLDER / f"checkpoint-{step}", output / f"checkpoint-{step}"
    aside.mkdir(parents=True)
    (aside / "model.safetensors").write_bytes(os.urandom(size))
    (aside / "optimizer.pt").write_bytes(os.urandom(2 * size))
    state = {"global_step": step, "best_global_step": best}
    (aside / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    sizes = {each.name: each.stat().st_size for each in aside.iterdir()}
    (aside / COMPLETE_FILE).write_text(json.dumps({"step": step, "files": sizes}), encoding="utf-8")
    aside.rename(place)
    for old in sorted(output.glob("checkpoint-*"), key=lambda each: step_in(each.name))[:-keep]:
        if step_in(old.name) != best:
            shutil.rmtree(old)
    return place


def environment(folder: Path, url: str, writer: str = "here") -> dict[str, str]:
    """The variables of an upload of the run `r` in `folder`."""
    attempt = folder / "runs" / "r" / "attempts" / "1"
    attempt.mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    (folder / "runs" / "r" / "job.yaml").write_text("version: 1\n", encoding="utf-8")
    (folder / "runs" / "r" / "run.json").write_text('{"id": "r"}', encoding="utf-8")
    return {
        **os.environ,
        **LOGIN,
        "PYTHONPATH": str(REPOSITORY),
        "AWS_ENDPOINT_URL": url,
        "DIMBA_RUN_ID": "r",
        "DIMBA_OUTPUT_DIR": str(folder / "out"),
        "DIMBA_ATTEMPT_DIR": str(attempt),
        "DIMBA_STORE": BUCKET,
        "DIMBA_STORE_WRITER": writer,
        "DIMBA_STORE_PACE": PACE,
    }


class Uploading:
    """A process that uploads, with its lines so far."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dimba.trainers.store", "upload"],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def end(self, how: str = "stopped") -> tuple[int, list[str]]:
        """Says how training ended; returns the exit status and all lines."""
        with suppress(OSError):
            self.process.stdin.write(f"{how}\n")
            self.process.stdin.flush()
        status = self.process.wait(60)
        self._reader.join(5)
        return status, self.lines

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def until(is_so, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def run_in_store() -> Store:
    """The run `r`, by the variables of this process."""
    return open_store(f"{BUCKET}/r")


def verified(store: Store, folder: Path) -> list[str]:
    """The names of the folders that the store lists as complete, after each file was read and compared."""
    found = []
    for name in store.folders():
        files = manifest_of(store, name)
        if files is None:
            assert MANIFEST not in store.sizes(name) or name == "run", f"{name} has a manifest that cannot be read"
            continue
        for each, listed in files.items():
            digest = store.get_file(f"{name}/{each}", folder / "file")
            assert (folder / "file").stat().st_size == listed.size and digest == listed.sha256, (name, each)
        found.append(name)
    return found
