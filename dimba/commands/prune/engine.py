"""Ended containers of the runs here, and images of former keys."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.commands.prune.leftover import Found, Leftover
from dimba.common.errors import DimbaError
from dimba.records import RunRecord

if TYPE_CHECKING:
    from dimba.runners.docker.leftovers import Container, Image
    from dimba.runners.docker.runner import DockerRunner

_ENDED = ("exited", "dead", "created")
_NAMED = 5  # names in one line
_THEIRS = "`docker container prune --filter label=dimba.run-id` removes them all, logs that were never read too"


@dataclass(frozen=True)
class EngineContent:
    """One look at the engine: everybody's containers, images with our label, and those that jobs would run in now."""

    containers: "tuple[Container, ...]"
    images: "tuple[Image, ...]"
    current: frozenset[str]


def look(runner: "DockerRunner", project: Path) -> EngineContent:
    """Asks the engine; raises EngineFailed."""
    from dimba.runners.docker.image import current_references
    from dimba.runners.docker.leftovers import all_containers, our_images

    try:
        current = current_references(runner.api, project)
    except DimbaError:  # a package without its repository: which image is the current one cannot be told
        current = frozenset()
    return EngineContent(tuple(all_containers(runner.api)), tuple(our_images(runner.api)), current)


def containers(content: EngineContent, ended: Mapping[str, RunRecord], ages: Mapping[str, float]) -> Found:
    """Those of runs that have ended and whose log is on disk therefore; `ended` and `ages` (seconds) by run id."""
    idle = [each for each in content.containers if each.run_id and each.state in _ENDED]
    going = [each for each in idle if each.run_id in ended and ended[each.run_id].status != "lost"]
    staying = len(idle) - len(going)
    note = f"left alone: {staying} idle container{'s' if staying > 1 else ''} of runs that did not end here; {_THEIRS}"
    leftovers = (
        Leftover(
            kind="container",
            name=each.name,
            place=each.id,
            size=each.size or 0,
            age=ages.get(each.run_id, 0),
            why=f"its run has ended ({ended[each.run_id].exit_reason}), its log is on disk",
        )
        for each in going
    )
    return Found(leftovers=tuple(leftovers), notes=(note,) if staying else ())


def images(content: EngineContent, going: Collection[str]) -> Found:
    """Images of former keys that no container uses once the containers in `going` (ids) have gone."""
    running = {each.image for each in content.containers if each.state not in _ENDED}
    staying = {each.image for each in content.containers if each.id not in going}
    old = [each for each in _former(content) if each.id not in running]
    foreign = [each for each in old if not _is_ours(each)]
    used = [each for each in old if _is_ours(each) and each.id in staying]
    free = [each for each in old if _is_ours(each) and each.id not in staying]
    notes = [f"left alone: {_counted(used)} that ended containers are made from"] if used else []
    notes += [f"left alone: {_counted(foreign)} that somebody gave a name of their own"] if foreign else []
    return Found(leftovers=tuple(map(_leftover, free)), notes=tuple(notes))


def _counted(images: "Sequence[Image]") -> str:
    names = ", ".join(map(_name, images[:_NAMED])) + (", …" if len(images) > _NAMED else "")
    return f"{len(images)} image{'s' if len(images) > 1 else ''} ({names})"


def _former(content: EngineContent) -> "Sequence[Image]":
    if content.current:
        return [each for each in content.images if not content.current.intersection(each.tags)]
    # Without the base image nobody knows the current key: the newest image is the likeliest.
    newest_first = sorted(content.images, key=lambda each: -each.created)
    return newest_first[1:]


def _is_ours(image: "Image") -> bool:
    """Whether nobody gave it a name: images made from ours inherit our label."""
    return all(tag.rpartition(":")[0].rpartition("/")[2].startswith("dimba") for tag in image.tags)


def _name(image: "Image") -> str:
    return ", ".join(image.tags) or image.id.removeprefix("sha256:")[:12]


def _leftover(image: "Image") -> Leftover:
    return Leftover(
        kind="image",
        name=_name(image),
        place=image.id,
        size=image.size,
        age=max(0.0, time.time() - image.created),
        why="of a former key",
    )
