"""`dimba prune`: finds unused images, containers, runs and cache entries, and removes them on request."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.commands.prune import disk, engine
from dimba.commands.prune.leftover import KINDS, Found, Leftover
from dimba.common.errors import BadInput, EngineFailed
from dimba.common.project import project_root
from dimba.host.facts import EngineFacts
from dimba.host.output import home_of, job_user, nearest_existing
from dimba.host.probe import hub_cache, runs_folder
from dimba.jobs.reconcile import reconciled
from dimba.records import ACTIVE, RunRecord, all_runs
from dimba.runners.registry import find_engine

if TYPE_CHECKING:
    from dimba.runners.docker.runner import DockerRunner

__all__ = ["KINDS", "Found", "Leftover", "Pruner"]


class Pruner:
    """Finds and removes leftovers of the runs and the cache of one folder, and in the engine if one answers."""

    def __init__(self, folder: Path) -> None:
        self._runs = runs_folder(folder)
        uid, _gid = job_user(nearest_existing(self._runs))
        self._cache = hub_cache(uid, home_of(uid), folder)
        self._docker, self._problem = _docker()

    def find(self, kinds: Collection[str], older: float) -> Found:
        """The leftovers of these `KINDS`: runs and cache entries unused for `older` seconds, others at any age.

        Raises:
            EngineFailed: `kinds` has only containers or images, and no engine answers.
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
        """(reconciled records of ended runs by run id, a note on each unreadable record)."""
        ended, notes = {}, []
        for folder in all_runs(self._runs):
            try:
                record = reconciled(folder)
            except BadInput as error:
                notes.append(f"kept: {error.message}")
                continue
            if record.status not in ACTIVE:
                ended[folder.id] = record
        return ended, tuple(notes)

    def _in_engine(self, kinds: Collection[str], ended: dict[str, RunRecord], ages: dict[str, float]) -> Found:
        if self._docker is None:
            if not {"runs", "cache"}.intersection(kinds):
                raise EngineFailed(f"containers and images cannot be listed: {self._problem}", "run `dimba doctor`")
            return Found(notes=(f"containers and images are not listed: {self._problem}",))
        content = engine.read_content(self._docker, project_root())
        old = engine.containers(content, ended, ages) if "containers" in kinds else Found()
        return old + engine.images(content, {each.place for each in old.leftovers}) if "images" in kinds else old

    def remove(self, leftover: Leftover) -> str:
        """Remove one leftover; returns the reason if it is kept on purpose, else nothing.

        Raises:
            HostCannot: it belongs to another user.
            EngineFailed: the engine fails.
        """
        if leftover.kind in ("run", "cache"):
            return disk.remove_run(leftover) if leftover.kind == "run" else disk.remove_entry(leftover)
        from dimba.runners.docker.leftovers import remove_container, remove_image

        assert self._docker is not None, "leftovers of an engine are only found in one"
        remove = remove_container if leftover.kind == "container" else remove_image
        return remove(self._docker.api, leftover.place)


def _docker() -> "tuple[DockerRunner | None, str]":
    runner, facts = find_engine()
    return (runner, "") if runner else (None, _problem(facts))


def _problem(facts: EngineFacts) -> str:
    return f"the engine at {facts.address} is on another machine" if facts.reachable else facts.problem
