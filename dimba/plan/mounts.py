"""The mounts of a job: host paths at the same absolute paths inside."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dimba.common.contract import IMAGE_ROOT
from dimba.common.errors import BadInput
from dimba.host.facts import HostFacts
from dimba.plan.model import Mount
from dimba.spec import JobSpec

# Paths of the container: a spec mounts nothing over the first ones, and nothing below the second ones.
_IMAGES_OWN = ("/", "/bin", "/etc", "/lib", "/lib64", "/opt", "/sbin", "/usr")
_TREES = ("/proc", "/sys", "/dev", "/opt/venv", IMAGE_ROOT)
_KEY, _FORM = "container.mounts", "write /host/folder[:/inside][:ro|rw]"
_ELSEWHERE = "mount it elsewhere inside: /host/folder:/inside"


def job_mounts(spec: JobSpec, facts: HostFacts, *further: Path) -> list[Mount]:
    """The mounts of every job, then those of the spec."""
    mounts = given_mounts(facts, *further)
    for text in spec.container.mounts:
        mount = _further(text, facts)
        _refuse_over([*mounts, same_place(facts.runs, read_only=False)], mount, text)
        mounts.append(mount)
    return mounts


def given_mounts(facts: HostFacts, *further: Path) -> list[Mount]:
    """Base, data and `further` files read-only, output and Hugging Face cache writable."""
    read_only: list[Path] = []
    if facts.checkpoint.local:
        read_only.append(Path(facts.checkpoint.reference))
    if facts.data.local or facts.data.sources:
        read_only += facts.data.places or (Path(facts.data.reference),) * (not facts.data.sources)
    if facts.trainer.path and not facts.trainer.in_image:
        read_only.append(facts.trainer.path)
    read_only += further
    writable = [facts.cache, facts.output.path]
    mounts = [same_place(path, read_only=True) for path in read_only]
    mounts += [same_place(path, read_only=False) for path in writable]
    mounts += [
        Mount(source=str(real), target=str(seen), read_only=True)
        for seen, real in (*facts.checkpoint.linked_files, *facts.data.linked_files)
    ]
    return list({each.target: each for each in mounts}.values())  # two flags may name one file


def same_place(path: Path, *, read_only: bool) -> Mount:
    """A host path, mounted at the same path inside."""
    return Mount(source=str(path), target=str(path), read_only=read_only)


def _further(text: str, facts: HostFacts) -> Mount:
    """`/host[:/inside][:ro|rw]`; read-only unless it says rw."""
    *paths, last = text.split(":")
    mode = last if last in ("ro", "rw") else "ro"
    paths = paths if last in ("ro", "rw") else [*paths, last]
    if not 1 <= len(paths) <= 2 or not all(paths):
        raise BadInput(f"`{text}` is not a mount", _FORM, key=_KEY)
    named = facts.named[paths[0]]
    source = named.path
    if not named.exists:
        raise BadInput(f"{source} does not exist", "create it first, or correct the path", key=_KEY)
    target = paths[1] if len(paths) == 2 else str(source)
    if not target.startswith("/") or ".." in PurePosixPath(target).parts:
        raise BadInput(f"`{target}` is not absolute", _FORM, key=_KEY)
    inside = PurePosixPath("/", *PurePosixPath(target).parts[1:])
    if hides_the_image(inside):
        raise BadInput(f"`{text}` would hide files of the image in {inside}", _ELSEWHERE, key=_KEY)
    return Mount(source=str(source), target=str(inside), read_only=mode == "ro")


def hides_the_image(inside: PurePosixPath) -> bool:
    """Whether a mount at this path would hide files of the image, or the path is invalid."""
    own = str(inside) in _IMAGES_OWN or any(inside.is_relative_to(tree) for tree in _TREES)
    return own or not inside.is_absolute() or ".." in inside.parts


def _refuse_over(planned: Sequence[Mount], mount: Mount, text: str) -> None:
    """Refuse a mount that would replace or hide one of the job's own."""
    here = PurePosixPath(mount.target)
    for each in planned:
        there = PurePosixPath(each.target)
        same_place = mount.source == mount.target
        if here.is_relative_to(there) or (there.is_relative_to(here) and not same_place):
            raise BadInput(f"`{text}` would hide {there}, which is mounted already", _ELSEWHERE, key=_KEY)
