"""GPU leases of this machine and the queue for them: one table for all folders and users.

A lease lasts as long as its launcher, and once the job runs as long as the job, so a killed run leaves none behind.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dimba.common.processes import is_alive, own_process
from dimba.records.locks import locked

_TABLE, _LOCK = "leases.json", "leases.lock"


@dataclass(frozen=True, kw_only=True)
class GpuRequest:
    """A request for any `count` of the GPUs in `candidates`."""

    candidates: tuple[str, ...]
    count: int


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The GPUs that a run holds; `job` is its job once that runs."""

    run: str
    gpus: tuple[str, ...]
    launcher: str
    runner: str = ""
    job: str | None = None


@dataclass(frozen=True, kw_only=True)
class Waiter:
    """A run in the queue: its request, the time it queued, and the process that waits for it."""

    run: str
    wanted: GpuRequest
    since: float
    launcher: str


@dataclass(frozen=True)
class Answer:
    """The GPUs that a run gets; None if it has to wait, with the holders of those that it asked for."""

    gpus: tuple[str, ...] | None
    holders: Mapping[str, str] = field(default_factory=dict)  # GPU: its holder


def assign(wanted: GpuRequest, free: Sequence[str], before: Iterable[GpuRequest]) -> tuple[str, ...] | None:
    """The GPUs for `wanted`, after the requests `before` it got or reserved theirs; None to wait.

    A request that cannot be met yet reserves every free GPU that it could use, so that later ones do not delay it.
    """
    left = list(free)
    for other in before:
        could = [gpu for gpu in left if gpu in other.candidates]
        taken = could[: other.count] if len(could) >= other.count else could
        left = [gpu for gpu in left if gpu not in taken]
    mine = [gpu for gpu in left if gpu in wanted.candidates]
    return tuple(mine[: wanted.count]) if len(mine) >= wanted.count else None


class Leases:
    """The table in `folder`; `job_lives` returns whether the job of a lease runs, None where that is unknown."""

    def __init__(self, folder: Path, job_lives: Callable[[Lease], bool | None]) -> None:
        self._folder, self._job_lives = folder, job_lives

    def ask(self, run: str, wanted: GpuRequest, *, since: float, runner: str, others: Mapping[str, str]) -> Answer:
        """Leases GPUs to a run, else queues it; `others` are the holders of GPUs that are in use without a lease."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            leases = [each for each in leases if each.run != run and self._holds(each)]
            waiting = [each for each in waiting if each.run != run and is_alive(each.launcher)]
            held = {**others, **{gpu: f"run {each.run}" for each in leases for gpu in each.gpus}}
            free = [gpu for gpu in wanted.candidates if gpu not in held]
            me = Waiter(run=run, wanted=wanted, since=since, launcher=own_process())
            before = sorted((each for each in waiting if _place(each) < _place(me)), key=_place)
            for each in before:
                free += [gpu for gpu in each.wanted.candidates if gpu not in (*held, *free)]
            gpus = assign(wanted, free, [each.wanted for each in before])
            if gpus is not None:
                leases.append(Lease(run=run, gpus=gpus, launcher=own_process(), runner=runner))
            self._write(leases, waiting if gpus is not None else [*waiting, me])
        ahead = {gpu: f"run {each.run}, which queued earlier" for each in before for gpu in each.wanted.candidates}
        return Answer(gpus, {gpu: {**ahead, **held}[gpu] for gpu in wanted.candidates if gpu in ahead or gpu in held})

    def take(self, run: str, gpus: tuple[str, ...], *, runner: str) -> None:
        """Leases GPUs to a run even if others hold them (`--share`)."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            leases = [each for each in leases if each.run != run and self._holds(each)]
            self._write([*leases, Lease(run=run, gpus=gpus, launcher=own_process(), runner=runner)], waiting)

    def hand_over(self, run: str, job: str) -> None:
        """Binds the lease of a run to its job, rather than to the launcher."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            self._write([_with_job(each, job) if each.run == run else each for each in leases], waiting)

    def release(self, run: str) -> None:
        """Removes the lease of a run, and its place in the queue."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            self._write([each for each in leases if each.run != run], [each for each in waiting if each.run != run])

    def holders(self) -> dict[str, str]:
        """The GPUs that runs hold, each with its run."""
        with locked(self._folder / _LOCK):
            leases, _ = self._read()
        return {gpu: f"run {each.run}" for each in leases if self._holds(each) for gpu in each.gpus}

    def _holds(self, lease: Lease) -> bool:
        if is_alive(lease.launcher) and lease.job is None:
            return True
        return self._job_lives(lease) is not False

    def _read(self) -> tuple[list[Lease], list[Waiter]]:
        """Reads the table; an unreadable one counts as empty, because containers have their GPUs in labels too."""
        try:
            value = json.loads((self._folder / _TABLE).read_text(encoding="utf-8"))
            return [_lease(each) for each in value["leases"]], [_waiter(each) for each in value["waiting"]]
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return [], []

    def _write(self, leases: Sequence[Lease], waiting: Sequence[Waiter]) -> None:
        part = self._folder / f".{_TABLE}.{os.getpid()}"
        value = {"leases": [asdict(each) for each in leases], "waiting": [asdict(each) for each in waiting]}
        part.write_text(json.dumps(value), encoding="utf-8")
        part.chmod(0o666)
        part.replace(self._folder / _TABLE)


def _place(waiter: Waiter) -> tuple[float, str]:
    return waiter.since, waiter.run


def _with_job(lease: Lease, job: str) -> Lease:
    return Lease(run=lease.run, gpus=lease.gpus, launcher=lease.launcher, runner=lease.runner, job=job)


def _lease(value: Mapping[str, Any]) -> Lease:
    return Lease(**{**value, "gpus": tuple(value["gpus"])})


def _waiter(value: Mapping[str, Any]) -> Waiter:
    wanted = value["wanted"]
    return Waiter(**{**value, "wanted": GpuRequest(candidates=tuple(wanted["candidates"]), count=wanted["count"])})
