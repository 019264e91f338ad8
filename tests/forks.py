"""Runs commands in forks of a process that has imported dimba, as the import takes longer than most commands.

A fork cannot test how Python starts or which module an import finds; `python -m dimba` can.
"""

import atexit
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
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from dimba.supervisor.rank import die_with_parent

REPOSITORY = Path(__file__).resolve().parents[1]
_MAX_REQUEST = 1 << 17  # bytes
_SKIPPED = ("dimba.trainers", "dimba.__main__")  # not part of the command, and runs on import


class Forks:
    """A process that waits for commands; each runs with its own streams, folder and environment."""

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
        """Run `dimba WORDS`; returns (exit status, stdout, stderr). Raises TimeoutExpired, as `subprocess.run`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(self._address))
            request = json.dumps([words, str(cwd), dict(environment)]).encode()
            pipes = [os.pipe(), os.pipe()]
            socket.send_fds(connection, [request], [write for _, write in pipes])
            for _, write in pipes:
                os.close(write)
            pid = int(connection.recv(32))
            timer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
            timer.start()
            output = _read([os.fdopen(read, encoding="utf-8") for read, _ in pipes])
            status = os.waitstatus_to_exitcode(int(connection.recv(32)))
            if not timer.is_alive():
                raise subprocess.TimeoutExpired(words, timeout, *output)
            timer.cancel()
        return status, *output


def _read(streams: list[IO[str]]) -> tuple[str, str]:
    """The text of both streams, read concurrently: a command that fills one must not block on the other."""
    texts = {}

    def read(number: int) -> None:
        with streams[number] as stream:
            texts[number] = stream.read()

    second = threading.Thread(target=read, args=(1,))
    second.start()
    read(0)
    second.join()
    return texts[0], texts[1]


def _serve(server: socket.socket) -> None:
    children = 0
    while True:
        connection, _ = server.accept()
        while children and os.waitpid(-1, os.WNOHANG)[0]:
            children -= 1
        if not os.fork():
            server.close()
            return _answer(connection)
        children += 1
        connection.close()


def _answer(connection: socket.socket) -> None:
    request, streams, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 2)
    if pid := os.fork():
        for stream in streams:
            os.close(stream)
        connection.send(str(pid).encode())
        connection.send(str(os.waitpid(pid, 0)[1]).encode())
        os._exit(0)
    connection.close()
    _become(*json.loads(request), streams)


def _become(words: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> None:
    """Turn this process into `python -m dimba WORDS`; it ends with the command."""
    from dimba.cli import main

    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)  # the old ones may have buffered positions
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.argv = ["dimba", *words]
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    _end(status)


def _end(status: int) -> None:
    """End as Python does, but free nothing: that would copy each page that the fork shares, for longer than it ran."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _import_all() -> None:
    import dimba

    for module in pkgutil.walk_packages(dimba.__path__, "dimba."):
        if not module.name.startswith(_SKIPPED):
            importlib.import_module(module.name)


def _ask_trainers() -> None:
    """Remember the flags of the project's trainers, which most commands would start for their `--help`."""
    from dimba.host.facts import TrainerFacts
    from dimba.runners import flags
    from dimba.runners.protocol import Output

    for script in (REPOSITORY / "scripts" / "finetuning").glob("finetune_*.py"):
        done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
        key = (flags._digest(TrainerFacts(path=script), "this machine"), os.getuid())
        flags._ANSWERS[key] = flags._flags(Output(0, done.stdout))


if __name__ == "__main__":
    die_with_parent()
    _import_all()
    _ask_trainers()
    gc.freeze()  # a fork that ends need not collect the imported modules
    _serve(socket.socket(fileno=int(sys.argv[1])))
