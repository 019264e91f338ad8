"""Ended containers of this folder's runs, and images of former keys."""

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
_MAX_NAMES = 5  # in one line
_REMOVE_ALL = "`docker container prune --filter label=dimba.run-id` removes them all, even if no log of them was saved"


@dataclass(frozen=True)
class EngineContent:
    """All containers of the engine, dimba's images, and the references of the images that new jobs would use."""

    containers: "tuple[Container, ...]"
    images: "tuple[Image, ...]"
    current: frozenset[str]


def read_content(runner: "DockerRunner", project: Path) -> EngineContent:
    """The content of the runner's engine. Raises EngineFailed."""
    from dimba.runners.docker.image import current_references
    from dimba.runners.docker.leftovers import all_containers, our_images

    try:
        current = current_references(runner.api, project)
    except DimbaError:  # without its repository, a package has no current image
        current = frozenset()
    return EngineContent(tuple(all_containers(runner.api)), tuple(our_images(runner.api)), current)


def containers(content: EngineContent, ended: Mapping[str, RunRecord], ages: Mapping[str, float]) -> Found:
    """Containers of ended runs, whose logs are on disk; `ended` and `ages` (seconds) by run id."""
    idle = [each for each in content.containers if each.run_id and each.state in _ENDED]
    removable = [each for each in idle if each.run_id in ended and ended[each.run_id].status != "lost"]
    kept = len(idle) - len(removable)
    note = f"kept: {kept} idle container{'s' if kept > 1 else ''} of runs that did not end here; {_REMOVE_ALL}"
    leftovers = (_container_leftover(each, ended[each.run_id], ages.get(each.run_id, 0)) for each in removable)
    return Found(leftovers=tuple(leftovers), notes=(note,) if kept else ())


def _container_leftover(container: "Container", run: RunRecord, age: float) -> Leftover:
    return Leftover(
        kind="container",
        name=container.name,
        place=container.id,
        size=container.size or 0,
        age=age,
        why=f"its run has ended ({run.exit_reason}), its log is on disk",
    )


def images(content: EngineContent, removed: Collection[str]) -> Found:
    """Images of former keys that no container uses after the containers with the ids `removed` are gone."""
    running = {each.image for each in content.containers if each.state not in _ENDED}
    needed = {each.image for each in content.containers if each.id not in removed}
    old = [each for each in _former_images(content) if each.id not in running]
    renamed = [each for each in old if _is_renamed(each)]
    used = [each for each in old if not _is_renamed(each) and each.id in needed]
    unused = [each for each in old if not _is_renamed(each) and each.id not in needed]
    notes = [f"kept: {_counted(used)} used by ended containers"] if used else []
    notes += [f"kept: {_counted(renamed)} with a name of your own"] if renamed else []
    return Found(leftovers=tuple(map(_image_leftover, unused)), notes=tuple(notes))


def _counted(images: "Sequence[Image]") -> str:
    names = ", ".join(map(_name, images[:_MAX_NAMES])) + (", …" if len(images) > _MAX_NAMES else "")
    return f"{len(images)} image{'s' if len(images) > 1 else ''} ({names})"


def _former_images(content: EngineContent) -> "Sequence[Image]":
    if content.current:
        return [each for each in content.images if not content.current.intersection(each.tags)]
    # Without the base image, the current key is unknown: the newest image is the likeliest.
    newest_first = sorted(content.images, key=lambda each: -each.created)
    return newest_first[1:]


def _is_renamed(image: "Image") -> bool:
    """Whether a user named it: images made from dimba's inherit its label."""
    return not all(tag.rpartition(":")[0].rpartition("/")[2].startswith("dimba") for tag in image.tags)


def _name(image: "Image") -> str:
    return ", ".join(image.tags) or image.id.removeprefix("sha256:")[:12]


def _image_leftover(image: "Image") -> Leftover:
    return Leftover(
        kind="image",
        name=_name(image),
        place=image.id,
        size=image.size,
        age=max(0.0, time.time() - image.created),
        why="of a former key",
    )
