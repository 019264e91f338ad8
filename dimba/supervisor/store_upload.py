"""The process that sends checkpoints to the run's store: beside the ranks, restarted if it dies, awaited at the end."""

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dimba.common import contract
from dimba.common.output_store import (
    AT_END,
    AT_STOP,
    FAILED,
    MODULE,
    SENT,
    STOPPED,
    TAKEN_OVER,
    UPLOAD,
    pace,
)
from dimba.supervisor.job_log import JobLog
from dimba.supervisor.nodes import Node

_RESTART = 30.0  # seconds between two starts
_MARGIN = 15.0  # seconds beyond the upload's own limit, after which it is killed
_POLL = 0.05
_LATE_LINES = 5.0
_HURRY = "hurry"


class StoreUpload:
    """The upload of a job; its lines are in the job's log."""

    def __init__(self, environment: Mapping[str, str], log: JobLog) -> None:
        self._environment, self._log = environment, log
        self._started = 0.0
        self._is_over = False
        self._process = self._start()

    def keep_running(self) -> None:
        """Starts it again if it has died; what was sent stays sent."""
        status = self._process.poll()
        if status is None or self._is_over:
            return
        if status == TAKEN_OVER:
            self._is_over = True
        elif time.monotonic() - self._started > _RESTART * pace():
            self._log.write_line(f"store: the upload ended with status {status}, and is started again")
            self._process = self._start()

    def finish(self, status: int, stop_signals: list[int]) -> None:
        """Waits until all is sent, or for the limit; less long once a signal asks the job to stop."""
        how = SENT if status == 0 else STOPPED if status == contract.EXIT_STOPPED else FAILED
        self._ask(how)
        limit, heard = AT_END if how == SENT else AT_STOP, len(stop_signals)
        deadline = time.monotonic() + limit * pace() + _MARGIN
        while not self._has_ended(how) and time.monotonic() < deadline:
            if len(stop_signals) > heard:
                heard = len(stop_signals)
                self._ask(_HURRY)
                deadline = min(deadline, time.monotonic() + AT_STOP * pace() + _MARGIN)
            time.sleep(_POLL)
        self._process.kill()
        self._process.wait()
        self._reader.join(_LATE_LINES)

    def _has_ended(self, how: str) -> bool:
        """Whether nothing more is to be expected; a process that died is started again to send the rest."""
        status = self._process.poll()
        if status is None:
            return False
        if status < 0 and not self._is_over:  # killed
            self._process = self._start()
            self._ask(how)
            return False
        return True

    def _ask(self, how: str) -> None:
        with suppress(OSError):  # it has died
            assert self._process.stdin is not None
            self._process.stdin.write(f"{how}\n".encode())
            self._process.stdin.flush()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, UPLOAD],
            env={**self._environment, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal must not end it before it has sent the rest
        )
        self._reader = threading.Thread(target=self._log.copy_lines_from, args=(process.stdout, "store: "), daemon=True)
        self._reader.start()
        return process


def await_upload(environment: Mapping[str, str], node: Node, folder: Path) -> None:
    """Waits on a further machine of a stopped job until the first one has sent the last checkpoint.

    A scheduler ends the job on all machines once one of them has ended with another status than 0.
    """
    if not (environment.get(contract.ENV_STORE) and node.rank):
        return
    deadline = time.monotonic() + AT_STOP * pace() + _MARGIN
    while not (folder / contract.EXIT_FILE).exists() and time.monotonic() < deadline:
        time.sleep(_POLL)


def store_upload(environment: Mapping[str, str], log: JobLog, node: Node) -> StoreUpload | None:
    """The started upload; None for a job without a store, and on machines other than the first."""
    return StoreUpload(environment, log) if environment.get(contract.ENV_STORE) and not node.rank else None
