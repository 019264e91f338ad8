"""Which run holds which GPU of this machine, and who waits: one table for all folders and users.

A lease lasts as long as what it is for: its launcher until the job runs, then the job. Nobody has to give it back.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dimba.records.locks import locked
from dimba.records.processes import lives, myself

_TABLE, _LOCK = "leases.json", "leases.lock"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Any `count` of `candidates`."""

    candidates: tuple[str, ...]
    count: int


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Cards that a run holds; `job` names it once it runs."""

    run: str
    gpus: tuple[str, ...]
    launcher: str
    runner: str = ""
    job: str | None = None


@dataclass(frozen=True, kw_only=True)
class Waiter:
    """A run that waits, since when, and the process that waits for it."""

    run: str
    wanted: Wanted
    since: float
    launcher: str


@dataclass(frozen=True)
class Answer:
    """The cards that a run was given, or in whose hands they are."""

    gpus: tuple[str, ...] | None
    holders: Mapping[str, str] = field(default_factory=dict)  # card: who has it


def choose(wanted: Wanted, free: Sequence[str], before: Iterable[Wanted]) -> tuple[str, ...] | None:
    """The cards for `wanted`, after those who came `before` have had, or kept back, theirs; None to wait.

    Who cannot be served yet keeps back every free card that it could use: whoever passes it must not delay it.
    """
    left = list(free)
    for other in before:
        could = [gpu for gpu in left if gpu in other.candidates]
        taken = could[: other.count] if len(could) >= other.count else could
        left = [gpu for gpu in left if gpu not in taken]
    mine = [gpu for gpu in left if gpu in wanted.candidates]
    return tuple(mine[: wanted.count]) if len(mine) >= wanted.count else None


class Leases:
    """The table in `folder`; `job_lives` says of a lease whether its job runs, None where nobody can be asked."""

    def __init__(self, folder: Path, job_lives: Callable[[Lease], bool | None]) -> None:
        self._folder, self._job_lives = folder, job_lives

    def ask(self, run: str, wanted: Wanted, *, since: float, runner: str, others: Mapping[str, str]) -> Answer:
        """Cards for a run, else a place in the queue; `others` are cards that somebody holds without a lease."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            leases = [each for each in leases if each.run != run and self._holds(each)]
            waiting = [each for each in waiting if each.run != run and lives(each.launcher)]
            held = {**others, **{gpu: f"run {each.run}" for each in leases for gpu in each.gpus}}
            free = [gpu for gpu in wanted.candidates if gpu not in held]
            me = Waiter(run=run, wanted=wanted, since=since, launcher=myself())
            before = sorted((each for each in waiting if _place(each) < _place(me)), key=_place)
            for each in before:
                free += [gpu for gpu in each.wanted.candidates if gpu not in (*held, *free)]
            gpus = choose(wanted, free, [each.wanted for each in before])
            if gpus is not None:
                leases.append(Lease(run=run, gpus=gpus, launcher=myself(), runner=runner))
            self._write(leases, waiting if gpus is not None else [*waiting, me])
        ahead = {gpu: f"run {each.run}, which was here first" for each in before for gpu in each.wanted.candidates}
        return Answer(gpus, {gpu: {**ahead, **held}[gpu] for gpu in wanted.candidates if gpu in ahead or gpu in held})

    def take(self, run: str, gpus: tuple[str, ...], *, runner: str) -> None:
        """Cards whoever holds them (`--share`); others will find them taken."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            leases = [each for each in leases if each.run != run and self._holds(each)]
            self._write([*leases, Lease(run=run, gpus=gpus, launcher=myself(), runner=runner)], waiting)

    def hand_over(self, run: str, job: str) -> None:
        """From the launcher to the job, which it outlives from now on."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            self._write([_with_job(each, job) if each.run == run else each for each in leases], waiting)

    def give_back(self, run: str) -> None:
        """Neither holds nor waits any more."""
        with locked(self._folder / _LOCK):
            leases, waiting = self._read()
            self._write([each for each in leases if each.run != run], [each for each in waiting if each.run != run])

    def holders(self) -> dict[str, str]:
        """The cards that are held, and by which run."""
        with locked(self._folder / _LOCK):
            leases, _ = self._read()
        return {gpu: f"run {each.run}" for each in leases if self._holds(each) for gpu in each.gpus}

    def _holds(self, lease: Lease) -> bool:
        if lives(lease.launcher) and lease.job is None:
            return True
        return self._job_lives(lease) is not False

    def _read(self) -> tuple[list[Lease], list[Waiter]]:
        """What is on the table; one that cannot be read is empty, as containers carry their cards in labels too."""
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
    return Waiter(**{**value, "wanted": Wanted(candidates=tuple(wanted["candidates"]), count=wanted["count"])})
