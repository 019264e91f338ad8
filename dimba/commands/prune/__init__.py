"""`dimba prune`: what is of no more use, found and, when that is wanted, removed."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.commands.prune import disk, engine
from dimba.commands.prune.leftover import KINDS, Found, Leftover
from dimba.common.errors import BadInput, EngineFailed
from dimba.host.facts import EngineFacts
from dimba.host.output import home_of, job_user, nearest_existing
from dimba.host.probe import hub_cache, project_root, runs_folder
from dimba.jobs.reconcile import reconciled
from dimba.records import ACTIVE, RunRecord, all_runs
from dimba.runners.registry import find_engine

if TYPE_CHECKING:
    from dimba.runners.docker.runner import DockerRunner

__all__ = ["KINDS", "Found", "Leftover", "Pruner"]


class Pruner:
    """The engine, where one answers, and the runs and the cache of one folder."""

    def __init__(self, folder: Path) -> None:
        self._runs = runs_folder(folder)
        uid, _gid = job_user(nearest_existing(self._runs))
        self._cache = hub_cache(uid, home_of(uid), folder)
        self._docker, self._problem = _docker()

    def find(self, kinds: Collection[str], older: float) -> Found:
        """What may go of these `KINDS`: runs and cache that are of no use for `older` seconds, the rest at any age.

        Raises:
            EngineFailed: only containers or images were asked for, and no engine answers.
        """
        ended, notes = self._ended()
        ages = {run: disk.age_of(record) for run, record in ended.items()}
        found = Found(notes=notes)
        if {"containers", "images"}.intersection(kinds):
            found += self._in_engine(kinds, ended, ages)
        if "runs" in kinds:
            found += disk.runs({run: self._runs / run for run in ended}, ages, older)
        return found + disk.cache(self._cache, older) if "cache" in kinds else found

    def _ended(self) -> tuple[dict[str, RunRecord], tuple[str, ...]]:
        """Records by run id, after a look at what is really running; and which cannot be read."""
        ended, notes = {}, []
        for folder in all_runs(self._runs):
            try:
                record = reconciled(folder)
            except BadInput as error:
                notes.append(f"left alone: {error.message}")
                continue
            if record.status not in ACTIVE:
                ended[folder.id] = record
        return ended, tuple(notes)

    def _in_engine(self, kinds: Collection[str], ended: dict[str, RunRecord], ages: dict[str, float]) -> Found:
        if self._docker is None:
            if not {"runs", "cache"}.intersection(kinds):
                raise EngineFailed(f"containers and images cannot be seen: {self._problem}", "`dimba doctor` says more")
            return Found(notes=(f"containers and images are not looked at: {self._problem}",))
        content = engine.look(self._docker, project_root())
        gone = engine.containers(content, ended, ages) if "containers" in kinds else Found()
        return gone + engine.images(content, {each.place for each in gone.leftovers}) if "images" in kinds else gone

    def remove(self, leftover: Leftover) -> str:
        """Removes one thing; returns why it stays where that is as it should be.

        Raises:
            HostCannot: it belongs to somebody else; EngineFailed: the engine fails.
        """
        if leftover.kind in ("run", "cache"):
            return disk.remove_run(leftover) if leftover.kind == "run" else disk.remove_entry(leftover)
        from dimba.runners.docker.leftovers import remove_container, remove_image

        assert self._docker is not None, "what is in an engine was found there"
        remove = remove_container if leftover.kind == "container" else remove_image
        return remove(self._docker.api, leftover.place)


def _docker() -> "tuple[DockerRunner | None, str]":
    runner, facts = find_engine()
    return (runner, "") if runner else (None, _why(facts))


def _why(facts: EngineFacts) -> str:
    return f"the engine at {facts.address} is on another machine" if facts.reachable else facts.problem
