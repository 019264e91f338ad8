"""What jobs left in the engine, found by our labels."""

from dataclasses import dataclass
from typing import Any

from docker.errors import APIError, NotFound
from requests.exceptions import RequestException

import docker
from dimba.common.contract import LABEL_IMAGE_KEY, LABEL_RUN_ID
from dimba.common.errors import EngineFailed
from dimba.runners.docker.translate import translated

_CONFLICT = 409


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container; `run_id` is empty for one that dimba did not create."""

    id: str
    name: str
    run_id: str
    image: str  # its image's id
    state: str
    created: float  # seconds since 1970
    size: int | None  # bytes, None where that was not asked for


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image with the label of the image key, which derived images inherit."""

    id: str
    key: str
    tags: tuple[str, ...]
    created: float  # seconds since 1970
    size: int  # bytes, those that it shares with other images among them


def all_containers(api: docker.APIClient) -> list[Container]:
    """Every container, running or not; ours with what they wrote to their own disk. Raises EngineFailed."""
    try:
        there = api.containers(all=True)
        ours = api.containers(all=True, size=True, filters={"label": LABEL_RUN_ID})
    except (APIError, RequestException) as error:
        raise _failed(error, "listing containers") from None
    sizes = {each["Id"]: int(each.get("SizeRw") or 0) for each in ours}
    return [_container(each, sizes.get(each["Id"])) for each in there]


def _container(each: dict[str, Any], size: int | None) -> Container:
    names = each.get("Names") or [each["Id"][:12]]
    return Container(
        id=each["Id"],
        name=names[0].removeprefix("/"),
        run_id=(each.get("Labels") or {}).get(LABEL_RUN_ID, ""),
        image=each.get("ImageID", ""),
        state=each.get("State", ""),
        created=float(each.get("Created") or 0),
        size=size,
    )


def our_images(api: docker.APIClient) -> list[Image]:
    """Every image with our label. Raises EngineFailed."""
    try:
        there = api.images(filters={"label": LABEL_IMAGE_KEY})
    except (APIError, RequestException) as error:
        raise _failed(error, "listing images") from None
    return [_image(each) for each in there]


def _image(each: dict[str, Any]) -> Image:
    return Image(
        id=each["Id"],
        key=each["Labels"][LABEL_IMAGE_KEY],
        tags=tuple(tag for tag in each.get("RepoTags") or () if tag != "<none>:<none>"),
        created=float(each.get("Created") or 0),
        size=int(each.get("Size") or 0),
    )


def remove_container(api: docker.APIClient, container: str) -> str:
    """Removes an ended container; returns why the engine refuses to, empty where it is gone. Raises EngineFailed."""
    return _removed(lambda: api.remove_container(container), "removing a container")


def remove_image(api: docker.APIClient, image: str) -> str:
    """Removes an image that nothing uses; returns why the engine refuses to, empty where it is gone. The same."""
    return _removed(lambda: api.remove_image(image), "removing an image")


def _removed(remove: Any, doing: str) -> str:
    try:
        remove()
    except NotFound:
        return ""
    except (APIError, RequestException) as error:
        if isinstance(error, APIError) and error.status_code == _CONFLICT:
            return str(error.explanation)
        raise _failed(error, doing) from None
    return ""


def _failed(error: Exception, doing: str) -> Exception:
    if isinstance(error, APIError):
        return translated(str(error.explanation), doing)
    return EngineFailed(f"{doing}: the engine stopped answering: {error}", "`dimba doctor` checks the engine")
