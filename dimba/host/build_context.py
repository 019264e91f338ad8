"""The files that the image is built from, and one digest over all of them."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dimba.common import contract
from dimba.common.contract import ENV_CA_CERT, ENV_WHEELS, absolute
from dimba.common.errors import BadInput, EngineFailed
from dimba.common.project import PACKAGED
from dimba.spec import JobSpec

EVAL = "-eval"  # the image with lm-eval, which runs tasks
GGUF = "-gguf"  # the image with llama.cpp, which exports and proves GGUF files
WITH_LISTS = ("", "-vllm")  # every value of `image_extra`: what a job trains with has lists of its own
IMAGE_EXTRAS = (*WITH_LISTS, GGUF, EVAL)
# Everything else in the repository (checkpoints, runs, data) stays out, as in `.dockerignore`, which Compose reads.
_LISTS = [f"docker/{name}{extra}.txt" for name in ("requirements", "constraints") for extra in WITH_LISTS]
LLAMA = "docker/llama"
_LLAMA_FILES = [f"{LLAMA}/{name}" for name in ("CMakeLists.txt", "make_llama.py", "requirements.txt")]
EVAL_LISTS = ("docker/eval/requirements.txt", "docker/eval/constraints.txt")
_FILES = ("Dockerfile", *_LISTS, *_LLAMA_FILES, *EVAL_LISTS)
_SUFFIXES = (".py", ".json", ".jsonl")  # code, and the tables that it reads
CERTS, WHEELS = "docker/certs", "docker/wheels"
# Folders of code, and what no job needs of them: the development tools, which a wheel lacks, stay out so that a wheel
# and a checkout of one revision share an image.
_CODE = {"scripts": ("bench", "docs", "gpu", "soak", "tables"), "dimba": (PACKAGED,)}


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Files by their path in the context, and the digest of paths, contents and modes."""

    files: dict[str, Path]
    digest: str


def package_folder(project: Path) -> Path:
    """The folder of the package `dimba` to which the project's files belong."""
    return project.parent if project.name == PACKAGED else project / "dimba"


def in_context(path: Path, project: Path) -> str | None:
    """The file's path in the context, which is its path in the image too; None if the context lacks it."""
    for room, folder in _code_folders(project):
        if path.suffix in _SUFFIXES and path.is_relative_to(folder) and "__pycache__" not in path.parts:
            name = path.relative_to(folder)
            return None if name.parts[0] in _CODE[room] else str(Path(room, name))
    return None


def _code_folders(project: Path) -> Iterator[tuple[str, Path]]:
    yield "scripts", project / "scripts"
    yield "dimba", package_folder(project)


def gather_context(project: Path) -> BuildContext:
    """The context of the project's image, with the CA bundle and the wheels that the environment names.

    Raises:
        EngineFailed: the repository lacks a file of the build.
        BadInput: an environment variable names a missing file or folder.
    """
    missing = [name for name in _FILES if not (project / name).is_file()]
    if missing:
        hint = "install dimba again (`pip install .` in its repository), or set `container.image`"
        raise EngineFailed(f"the image cannot be built without {project / missing[0]}", hint)
    files = {name: project / name for name in _FILES}
    files |= _code_files(project) | _extras(project)
    return BuildContext(files=dict(sorted(files.items())), digest=_digest(files))


def code_digest(project: Path) -> str:
    """The digest of dimba's own code, the trainers included."""
    return _digest(_code_files(project))


def _code_files(project: Path) -> dict[str, Path]:
    files = (path for _room, folder in _code_folders(project) for path in folder.rglob("*"))
    return {name: path for path in files if (name := in_context(path, project))}


def _extras(project: Path) -> dict[str, Path]:
    certs = [absolute(os.environ[ENV_CA_CERT])] if os.environ.get(ENV_CA_CERT) else _listed(project / CERTS)
    folder = absolute(os.environ[ENV_WHEELS]) if os.environ.get(ENV_WHEELS) else project / WHEELS
    wheels = [path for path in _listed(folder) if path.suffix == ".whl" or path.name == ".gitkeep"]
    for path, variable in ((certs[0] if certs else None, ENV_CA_CERT), (folder, ENV_WHEELS)):
        if path and not path.exists():
            raise BadInput(f"{path} does not exist", f"correct or unset `{variable}`")
    keep = {f"{place}/.gitkeep": project / place / ".gitkeep" for place in (CERTS, WHEELS)}
    keep |= {f"{CERTS}/{path.name}": path for path in certs}
    return keep | {f"{_place(path)}/{path.name}": path for path in (*wheels, *(project / LLAMA).glob("*.whl"))}


def _place(wheel: Path) -> str:
    """The wheel's folder in the context: llama.cpp's comes after the layers that all images share."""
    return LLAMA if wheel.name.startswith("dimba_llama-") else WHEELS


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def _digest(files: dict[str, Path]) -> str:
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(f"{name}\0{path.stat().st_mode & 0o111 != 0}\0".encode())
        total.update(_content(path))
    return total.hexdigest()


def _content(path: Path) -> bytes:
    if path.suffix == ".whl":  # wheels are gigabytes: size and time stand in for the content
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}".encode()
    return hashlib.sha256(path.read_bytes()).digest()


def image_key(
    context: BuildContext, base: str, base_digest: str | None, extra: str = "", pins: str = contract.TESTED
) -> str:
    """Sixteen hex digits over everything that enters the image; `extra` as returned by `image_extra`.

    With the pins `latest`, what pip resolves enters it too, which no key can cover.
    """
    text = f"{context.digest}\0{base}\0{base_digest}\0{extra}" + (f"\0{pins}" if pins != contract.TESTED else "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_arguments(extra: str) -> dict[str, str]:
    """The Dockerfile's arguments for an image with this extra."""
    return {"WITH": extra} if extra in WITH_LISTS else {"WITH": "", extra.removeprefix("-").upper(): "1"}


def image_extra(spec: JobSpec) -> str:
    """The value of the Dockerfile's `WITH` that the job needs: `-vllm`, or nothing."""
    return spec.objective.image_extra(spec.trainer_args)
