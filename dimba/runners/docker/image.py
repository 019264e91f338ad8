"""The image: its key, and building it with progress where it is not there yet."""

import json
import os
import re
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from docker.errors import APIError, ImageNotFound

import docker
from dimba.common.contract import (
    ENV_BASE_IMAGE,
    ENV_CA_CERT,
    ENV_WHEELS,
    LABEL_IMAGE_KEY,
    LABEL_RESOLVED,
    LABEL_VERSIONS,
    LATEST,
    TESTED,
)
from dimba.common.errors import DimbaError, EngineFailed, HostCannot
from dimba.host.build_context import (
    IMAGE_EXTRAS,
    BuildContext,
    build_arguments,
    gather_context,
    image_extra,
    image_key,
)
from dimba.host.facts import ImageFacts
from dimba.host.proxies import build_proxies, is_on_this_machine, secrets_of
from dimba.runners.docker.engine import configured_proxies, engine_address
from dimba.runners.docker.translate import translated
from dimba.runners.protocol import Progress
from dimba.spec import Container, JobSpec
from dimba.spec.secrets import mask_secrets

REPOSITORY = "dimba"
_STEP = re.compile(r"^Step (\d+)/(\d+) : (.*)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the engine paints what a step writes to stderr
_LAST_LINES = 15
# (words of a failed step's last lines, kind, what to do)
_CAUSES: tuple[tuple[re.Pattern[str], type[DimbaError], str], ...] = (
    (re.compile(r"no space left", re.I), HostCannot, "`docker system df` shows what fills the disk"),
    (
        re.compile(r"certificate[ _]verify[ _]failed|certificate verification failed", re.I),
        EngineFailed,
        f"let the image trust your company's CA: `export {ENV_CA_CERT}=/path/to/ca.crt`",
    ),
    (
        re.compile(r"proxyerror|proxy authentication|\b407\b", re.I),
        EngineFailed,
        "correct HTTP_PROXY and HTTPS_PROXY, or unset them",
    ),
    (
        re.compile(
            r"name resolution|could not resolve|name or service not known|network is unreachable|timed out"
            r"|could not connect|newconnectionerror|connection refused",
            re.I,
        ),
        EngineFailed,
        f"a proxy: `export HTTPS_PROXY=http://…`; without a network: `export {ENV_WHEELS}=/path/to/wheels`",
    ),
)


def look_at_image(
    api: docker.APIClient,
    spec: JobSpec,
    project: Path,
    container: Container | None = None,
    extra: str | None = None,
) -> ImageFacts:
    """Which image the job would run in, and whether it is there; asks the engine, not a registry.

    `container` names it in place of the spec's section, `extra` what is in it in place of what the job needs.
    """
    container = container or spec.container
    if foreign := container.image:
        named = {"key": None, "base": None, "base_digest": None, "id": None}
        return ImageFacts(reference=foreign, **{**named, **_found(api, foreign)})
    context = gather_context(project)
    base = base_image(project, container)
    digest = _digest(api, base)
    extra = image_extra(spec) if extra is None else extra
    key = image_key(context, base, digest, extra, container.pins)
    reference = f"{REPOSITORY}:{key}"
    built = {"key": key, "base": base, "base_digest": digest, "extra": extra, "pins": container.pins}
    return ImageFacts(reference=reference, **{"id": None, **built, **_found(api, reference)})


def default_base(project: Path) -> str:
    """What the Dockerfile's `ARG BASE_IMAGE=` says."""
    match = re.search(r"^ARG BASE_IMAGE=(\S+)", (project / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    if not match:
        raise EngineFailed(f"{project / 'Dockerfile'} has no `ARG BASE_IMAGE=`", "restore the repository's Dockerfile")
    return match[1]


def _found(api: docker.APIClient, reference: str) -> dict[str, Any]:
    """The fields of an image that only the engine knows: none until it is here."""
    found = _inspected(api, reference)
    if found is None:
        return {}
    labels = found.get("Config", {}).get("Labels") or {}
    if not (versions := labels.get(LABEL_VERSIONS)):
        return {"id": str(found["Id"])}
    latest = {"pins": LATEST, "versions": json.loads(versions), "resolved": labels.get(LABEL_RESOLVED, "")}
    return {"id": str(found["Id"]), **latest}


def _inspected(api: docker.APIClient, reference: str) -> dict[str, Any] | None:
    try:
        return dict(api.inspect_image(reference))
    except ImageNotFound:
        return None
    except APIError as error:
        raise translated(str(error.explanation), f"image `{reference}`") from None


def _digest(api: docker.APIClient, base: str) -> str | None:
    """The registry's digest where the image came from one, so that every machine computes the same key."""
    try:
        image = api.inspect_image(base)
    except ImageNotFound:
        return None
    except APIError as error:
        raise translated(str(error.explanation), f"base image `{base}`") from None
    digests = [str(digest) for digest in image.get("RepoDigests") or [] if digest]
    return min(digests).partition("@")[2] if digests else str(image["Id"])


def present(api: docker.APIClient, reference: str) -> bool:
    """Whether the engine has this image."""
    return _inspected(api, reference) is not None


def can_have_base(api: docker.APIClient, base: str) -> bool:
    """Whether the base image is here, or a registry has it; fetches nothing."""
    if present(api, base):
        return True
    try:
        api.inspect_distribution(base)
    except APIError:
        return False
    return True


def base_image(project: Path, container: Container | None = None) -> str:
    """The spec's base image, else `DIMBA_BASE_IMAGE`, else the Dockerfile's."""
    written = container.base_image if container else None
    return written or os.environ.get(ENV_BASE_IMAGE) or default_base(project)


def current_references(api: docker.APIClient, project: Path) -> frozenset[str]:
    """Images that jobs would run in now, with and without extras; empty where the base image is not here to tell.

    Raises:
        DimbaError: the project's files cannot be read.
    """
    if _digest(api, base_image(project)) is None:
        return frozenset()
    context = gather_context(project)
    bases = {base: _digest(api, base) for base in (base_image(project), default_base(project))}
    return frozenset(
        f"{REPOSITORY}:{image_key(context, base, digest, extra, pins)}"
        for base, digest in bases.items()
        for extra in IMAGE_EXTRAS
        for pins in (TESTED, LATEST)
    )


def pull(api: docker.APIClient, reference: str, progress: Progress) -> None:
    """Fetches an image; raises EngineFailed with what to do where no registry has it."""
    layers: dict[str, bool] = {}
    try:
        for message in api.pull(reference, stream=True, decode=True):
            if "error" in message:
                raise translated(message["error"], f"pulling `{reference}`")
            if "id" in message:
                layers[message["id"]] = message.get("status") in ("Pull complete", "Already exists")
                progress(f"pulling {reference}", sum(layers.values()), len(layers))
    except APIError as error:
        raise translated(str(error.explanation), f"pulling `{reference}`") from None


def build(api: docker.APIClient, image: ImageFacts, project: Path, progress: Progress) -> None:
    """Builds `image` from the project; raises EngineFailed with the failing step and its last lines."""
    assert image.base is not None and image.key is not None, "only our own images are built"
    proxies = configured_proxies(engine_address()) | build_proxies()
    is_local = any(map(is_on_this_machine, proxies.values()))
    with tempfile.TemporaryFile() as tar:
        _pack(gather_context(project), tar)
        tar.seek(0)
        messages = api.build(
            fileobj=tar,
            custom_context=True,
            decode=True,
            tag=image.reference,
            rm=True,
            forcerm=True,
            buildargs={"BASE_IMAGE": image.base, **build_arguments(image.extra), **_pins(image), **proxies},
            network_mode="host" if is_local else None,
            labels={LABEL_IMAGE_KEY: image.key},
        )
        _follow(messages, progress, secrets_of(proxies))


def _pins(image: ImageFacts) -> dict[str, str]:
    return {"PINS": image.pins, "RESOLVED": image.resolved} if image.pins == LATEST else {}


def _pack(context: BuildContext, file: IO[bytes]) -> None:
    """A tar that depends on nothing but contents: no times, no owners."""
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, path in context.files.items():
            entry = tarfile.TarInfo(name)
            executable = path.stat().st_mode & 0o111
            entry.size, entry.mode = path.stat().st_size, 0o755 if executable else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def _follow(messages: Iterable[dict[str, Any]], progress: Progress, secrets: Sequence[str] = ()) -> None:
    step, last = "the build", deque[str](maxlen=_LAST_LINES)
    try:
        for message in messages:
            text = _COLOUR.sub("", str(message.get("stream", "")))
            if match := _STEP.match(text):
                step = f"step {match[1]}/{match[2]}: {_shortened(match[3])}"
                last.clear()
                progress(_shortened(match[3]), int(match[1]) - 1, int(match[2]))
            elif "error" in message:
                raise _failed(step, mask_secrets(message["error"], secrets), last)
            elif text.strip() and not text.lstrip().startswith("--->"):
                last.extend(mask_secrets(text.strip(), secrets).splitlines())
                progress("", -1, 0)
    except APIError as error:
        raise translated(str(error.explanation), f"image build, {step}") from None


def _failed(step: str, error: str, last: Iterable[str]) -> DimbaError:
    known = translated(error, f"image build, {step}")
    if known.hint and not known.hint.startswith("`dimba doctor`"):
        return known
    text = "\n".join(last)
    lines = "\n".join(f"  | {line}" for line in last)
    causes = ((kind, hint) for words, kind, hint in _CAUSES if words.search(text))
    kind, hint = next(causes, (EngineFailed, "fix that step of the Dockerfile, or provide what it needs"))
    return kind(f"the image does not build: {step}\n{lines}\n  {error.strip()}", hint)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:59]}…"
