"""An image with the newest releases of the training packages: built, asked for their versions, and labelled with them.

Nothing else could tell later what such an image has: its key covers the names of the packages, not what pip resolved.
"""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from docker.errors import APIError

import docker
from dimba.common.contract import LABEL_IMAGE_KEY, LABEL_RESOLVED, LABEL_VERSIONS
from dimba.common.errors import EngineFailed
from dimba.host.facts import ImageFacts
from dimba.host.packages import LIBRARIES
from dimba.runners.docker.image import build
from dimba.runners.docker.translate import translated
from dimba.runners.protocol import OneShot, Output, Progress

_USER = 10001  # the Dockerfile's
_SECONDS = 120
_VERSIONS = """
import json, sys
from importlib.metadata import distributions
found = {each.name: each.version for each in distributions()}
print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))
"""


def build_latest(
    api: docker.APIClient, image: ImageFacts, project: Path, progress: Progress, run_once: Callable[..., Output]
) -> None:
    """Builds `image` with the newest releases of today, and labels it with their versions. Raises EngineFailed."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    made = replace(image, reference=f"{image.reference}-unlabelled", resolved=today)
    build(api, made, project, progress)
    versions = _versions(run_once, made.reference)
    labels = {LABEL_IMAGE_KEY: str(image.key), LABEL_RESOLVED: today, LABEL_VERSIONS: versions}
    try:
        _label(api, made.reference, image.reference, labels)
        api.remove_image(made.reference)
    except APIError as error:
        raise translated(str(error.explanation), f"labelling `{image.reference}`") from None


def _versions(run_once: Callable[..., Output], reference: str) -> str:
    place = OneShot(uid=_USER, gid=_USER, image=reference, timeout=_SECONDS)
    done = run_once(["python", "-c", _VERSIONS, *LIBRARIES], place)
    try:
        return json.dumps(json.loads(done.text))
    except ValueError:
        hint = f"`docker run --rm {reference} pip list` shows what it has"
        raise EngineFailed(f"the new image does not list its packages: {done.text.strip()}", hint) from None


def _label(api: docker.APIClient, made: str, reference: str, labels: dict[str, str]) -> None:
    recipe = io.BytesIO(f"FROM {made}\n".encode())
    for message in api.build(fileobj=recipe, tag=reference, labels=labels, rm=True, decode=True):
        if "error" in message:
            raise translated(message["error"], f"labelling `{reference}`")
