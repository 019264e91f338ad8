"""What only `dimba doctor` asks the engine: whose it is, where its data lie, what time it thinks it is."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docker.errors import APIError

import docker

_CONTAINERD_DATA = "/var/lib/containerd"


@dataclass(frozen=True, kw_only=True)
class EngineDetails:
    """Facts beyond those that a launch needs."""

    data: str = ""  # where images lie, as the engine names it: in Docker Desktop's machine, that is not this disk
    podman: str = ""  # Podman's version where the engine is Podman
    skew: float = 0  # seconds that its clock is ahead of ours


def engine_details(api: docker.APIClient) -> EngineDetails:
    """Asks the engine twice."""
    asked = time.time()
    info = api.info()
    answered = time.time()
    return EngineDetails(
        data=_data(info), podman=podman_version(api.version()), skew=_skew(info.get("SystemTime"), asked, answered)
    )


def podman_version(version: dict[str, Any]) -> str:
    """The version of the component that is Podman, empty for an engine that is Docker's."""
    components = version.get("Components") or []
    return next((str(each.get("Version")) for each in components if each.get("Name") == "Podman Engine"), "")


def _data(info: dict[str, Any]) -> str:
    drivers = info.get("DriverStatus") or []
    if ["driver-type", "io.containerd.snapshotter.v1"] in [list(each) for each in drivers]:
        return _CONTAINERD_DATA
    return str(info.get("DockerRootDir") or "")


def _skew(said: Any, asked: float, answered: float) -> float:
    try:
        theirs = datetime.fromisoformat(str(said)).timestamp()
    except ValueError:
        return 0
    return theirs - min(max(theirs, asked), answered)  # an engine may take its time to answer


def image_environment(api: docker.APIClient, image: str) -> dict[str, str]:
    """The variables that an image sets; none where it cannot be looked at."""
    try:
        config = api.inspect_image(image).get("Config") or {}
    except APIError:
        return {}
    return dict(each.partition("=")[::2] for each in config.get("Env") or [])
