"""The command in a process of its own, forked from one that has imported dimba: that takes longer than most commands.

What a fork cannot tell (which module an import finds, how Python was started) is for `python -m dimba` itself.
"""

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from dimba.supervisor.rank import die_with_parent

REPOSITORY = Path(__file__).resolve().parents[1]
_LONGEST = 1 << 17  # bytes of a request
_ELSEWHERE = ("dimba.trainers", "dimba.__main__")  # what trains, and what begins by itself


class Forks:
    """A process that waits for commands; each gets streams, a folder and an environment as a new one would."""

    def __init__(self, folder: Path) -> None:
        self._address = folder / "forks"
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.bind(str(self._address))
        server.listen(64)
        command = [sys.executable, "-m", "tests.forks", str(server.fileno())]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, pass_fds=[server.fileno()], stdin=subprocess.DEVNULL
        )
        server.close()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, words: list[str], cwd: Path, environment: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
        """(exit status, stdout, stderr), as of `subprocess.run`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
            asked.connect(str(self._address))
            request = json.dumps([words, str(cwd), dict(environment)]).encode()
            pipes = [os.pipe(), os.pipe()]
            socket.send_fds(asked, [request], [write for _, write in pipes])
            for _, write in pipes:
                os.close(write)
            pid = int(asked.recv(32))
            late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            late.start()
            said = _read([os.fdopen(read, encoding="utf-8") for read, _ in pipes])
            status = os.waitstatus_to_exitcode(int(asked.recv(32)))
            if not late.is_alive():
                raise subprocess.TimeoutExpired(words, timeout, *said)
            late.cancel()
        return status, *said


def _read(streams: list[IO[str]]) -> tuple[str, str]:
    """Both to their end; whoever fills one must not wait for the other."""
    said = {}

    def read(number: int) -> None:
        with streams[number] as stream:
            said[number] = stream.read()

    other = threading.Thread(target=read, args=(1,))
    other.start()
    read(0)
    other.join()
    return said[0], said[1]


def _serve(server: socket.socket) -> None:
    answering = 0
    while True:
        asked, _ = server.accept()
        while answering and os.waitpid(-1, os.WNOHANG)[0]:
            answering -= 1
        if not os.fork():
            server.close()
            return _answer(asked)
        answering += 1
        asked.close()


def _answer(asked: socket.socket) -> None:
    request, streams, _, _ = socket.recv_fds(asked, _LONGEST, 2)
    if pid := os.fork():
        for stream in streams:
            os.close(stream)
        asked.send(str(pid).encode())
        asked.send(str(os.waitpid(pid, 0)[1]).encode())
        os._exit(0)
    asked.close()
    _become(*json.loads(request), streams)


def _become(words: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> None:
    """`python -m dimba WORDS` from here on; its end is that of the interpreter."""
    from dimba.cli import main

    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # those of before may remember a file's place
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.argv = ["dimba", *words]
    raise SystemExit(main())


def _import_all() -> None:
    import dimba

    for module in pkgutil.walk_packages(dimba.__path__, "dimba."):
        if not module.name.startswith(_ELSEWHERE):
            importlib.import_module(module.name)


if __name__ == "__main__":
    die_with_parent()
    _import_all()
    gc.freeze()  # a fork that ends does not look through what it was born with
    _serve(socket.socket(fileno=int(sys.argv[1])))
