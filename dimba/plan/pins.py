"""The versions of the training packages: the set that dimba is tested with, or the newest releases."""

from collections.abc import Iterator, Mapping

from dimba.common.contract import LATEST
from dimba.common.errors import BadInput, DimbaError
from dimba.common.runners import IN_ENGINE, Capabilities
from dimba.host.facts import HostFacts, ImageFacts
from dimba.spec import JobSpec

UNTESTED = "untested with dimba"
_KEY = "container.pins"
_SHOWN = 4  # versions in one line


def pins_problems(spec: JobSpec, facts: HostFacts, can: Capabilities) -> list[DimbaError]:
    """The refusal of the newest releases for a job without an image, whose Python dimba leaves as it is."""
    in_image = can.runs_in_image or (can.several_nodes and facts.image is not None)
    if spec.container.pins != LATEST or in_image:
        return []
    update = f"`{facts.pip_install} -U transformers trl peft accelerate` updates this Python"
    hint = f"set `runner: {IN_ENGINE}`; or remove the key: {update}"
    return [BadInput("a job without an image uses the packages that are installed", hint, key=_KEY)]


def pins_notes(spec: JobSpec, image: ImageFacts | None) -> Iterator[str]:
    """A line about an image with the newest releases, or one that the spec wants and dimba does not build."""
    if image is None:
        return
    if image.pins == LATEST:
        yield f"{_KEY}: {LATEST}: {latest_releases(image)}; torch stays at the tested version"
    elif spec.container.pins == LATEST:
        yield f"{_KEY}: {image.reference} runs as it is: build it with `--build-arg PINS={LATEST}`"


def latest_releases(image: ImageFacts) -> str:
    """The newest releases that an image has, or will have once it is built."""
    if not image.versions:
        return f"the newest releases of the day on which it is built, {UNTESTED}"
    day = f" of {image.resolved}" if image.resolved else ""
    return f"the newest releases{day}, {UNTESTED}: {shown_versions(image.versions)}"


def shown_versions(versions: Mapping[str, str]) -> str:
    """The most telling versions in one line."""
    named = [(name, version) for name, version in versions.items() if name != "torch"]
    return ", ".join(f"{name} {version}" for name, version in named[:_SHOWN])
