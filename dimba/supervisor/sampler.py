"""The server that samples on the job's last GPUs: started before the ranks, watched with them, ended after them."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from functools import partial

from dimba.common import contract
from dimba.supervisor.job_log import JobLog
from dimba.supervisor.rank import die_with_parent

_HOST = "127.0.0.1"
_GRACE = 15.0  # seconds, more than `dimba.supervisor.group` takes
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class SamplerServer:
    """The running server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def exit_status(self) -> int | None:
        """Its status if it has ended; no job can continue without it."""
        return self._process.poll()

    def stop(self) -> None:
        """Ends it with all its processes."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._process.kill()
        self._process.wait()


@contextmanager
def sampler_server(environment: MutableMapping[str, str], log: JobLog) -> Iterator[SamplerServer | None]:
    """Runs the job's server within, if it has one; its lines are in the log.

    Changes `environment`, which is that of the ranks: they get the other GPUs and the server's address.
    """
    command = environment.get(contract.ENV_SAMPLER)
    if not command or environment.get(contract.ENV_ON_CPU_INSTEAD):
        yield None
        return
    server = SamplerServer(_start(json.loads(command), environment, log))
    try:
        yield server
    finally:
        server.stop()


def _start(command: list[str], environment: MutableMapping[str, str], log: JobLog) -> subprocess.Popen[bytes]:
    gpus, port = _visible(environment), _free_port()
    count = int(environment[contract.ENV_SAMPLER_GPUS])
    # All of it stays on this machine, also where a proxy is set and no network is there.
    direct = ",".join(filter(None, [environment.get("NO_PROXY", environment.get("no_proxy", "")), _HOST]))
    environment.update(VLLM_HOST_IP=_HOST, NO_PROXY=direct, no_proxy=direct)
    own = {**environment, _VISIBLE: ",".join(gpus[-count:])}
    environment[_VISIBLE] = ",".join(gpus[:-count])
    environment[contract.ENV_SAMPLER_URL] = f"http://{_HOST}:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "dimba.supervisor.group", *command, "--host", _HOST, "--port", str(port)],
        env=own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a Ctrl-C in the terminal must not end it before the ranks have saved
        preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509  # no other thread runs yet
    )
    threading.Thread(target=log.copy_lines_from, args=(process.stdout, "sampler: "), daemon=True).start()
    return process


def _visible(environment: MutableMapping[str, str]) -> list[str]:
    """The GPUs of the job as CUDA names them here."""
    if given := environment.get(_VISIBLE, ""):
        return given.split(",")
    return [str(n) for n in range(int(environment[contract.ENV_GPU_COUNT]))]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
