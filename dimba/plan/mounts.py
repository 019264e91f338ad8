"""What of the host the container sees: always at the same absolute path."""

from pathlib import Path

from dimba.contract import absolute
from dimba.errors import BadInput
from dimba.host.facts import HostFacts
from dimba.plan.model import Mount
from dimba.spec import JobSpec


def job_mounts(spec: JobSpec, facts: HostFacts, *further: Path) -> list[Mount]:
    """Base, data and `further` files read-only, output and Hugging Face cache writable, then what the spec adds."""
    read_only: list[Path] = []
    if facts.checkpoint.local:
        read_only.append(Path(facts.checkpoint.reference))
    if facts.data.local:
        read_only.append(Path(facts.data.reference))
    if facts.trainer.path and not facts.trainer.in_image:
        read_only.append(facts.trainer.path)
    read_only += further
    writable = [facts.cache, facts.output.path]
    mounts = [_same(path, read_only=True) for path in read_only] + [_same(path, read_only=False) for path in writable]
    mounts += [
        Mount(source=str(real), target=str(seen), read_only=True) for seen, real in facts.checkpoint.linked_files
    ]
    return mounts + [_further(text, facts.folder) for text in spec.container.mounts]


def _same(path: Path, *, read_only: bool) -> Mount:
    return Mount(source=str(path), target=str(path), read_only=read_only)


def _further(text: str, folder: Path) -> Mount:
    """`/host[:/inside][:ro|rw]`; read-only unless it says rw."""
    *paths, last = text.split(":")
    mode = last if last in ("ro", "rw") else "ro"
    paths = paths if last in ("ro", "rw") else [*paths, last]
    if not 1 <= len(paths) <= 2 or not all(paths):
        raise BadInput(f"container.mounts: `{text}` is not a mount", "write /host/folder[:/inside][:ro|rw]")
    source = absolute(paths[0], folder)
    if not source.exists():
        raise BadInput(f"container.mounts: {source} does not exist", "make it first, or correct the path")
    target = paths[1] if len(paths) == 2 else str(source)
    if not target.startswith("/"):
        raise BadInput(f"container.mounts: `{target}` is not absolute", "write /host/folder[:/inside][:ro|rw]")
    return Mount(source=str(source), target=target, read_only=mode == "ro")
