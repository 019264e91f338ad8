"""The training packages beside dimba, for jobs that run without an image."""

import hashlib
import importlib.metadata
import importlib.util
import shlex
import sys
from pathlib import Path

from dimba.host.build_context import EVAL_LISTS

TRAINING_PACKAGES = ("accelerate", "datasets", "peft", "torch", "transformers", "trl")
# What decides the numbers of a run, most telling first.
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "bitsandbytes")


def missing_packages() -> tuple[str, ...]:
    """The training packages that this Python lacks; imports none of them."""
    return tuple(name for name in TRAINING_PACKAGES if importlib.util.find_spec(name) is None)


def library_versions() -> dict[str, str]:
    """The versions of the libraries that this Python has."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pinned_versions(project: Path, digest: str | None) -> dict[str, str]:
    """The versions of the libraries that the project pins, if its list still has this SHA-256; else none."""
    try:
        content = (project / "docker" / "constraints.txt").read_bytes()
    except OSError:
        return {}
    if hashlib.sha256(content).hexdigest() != digest:
        return {}
    pins = (line.partition(";")[0].partition("==") for line in content.decode().splitlines())
    known = {name.strip(): version.strip() for name, equals, version in pins if equals}
    return {name: known[name] for name in LIBRARIES if name in known}


def install_command(project: Path) -> str:
    """The command that installs the training packages for this Python, in the versions of the project's image."""
    # Without dimba's own metadata, pip would look `dimba[train]` up in an index, where the name may be another's.
    packages = "'dimba[train]'" if _is_installed() else f"-r {shlex.quote(str(project / 'docker/requirements.txt'))}"
    return f"{pip_install()} {packages} -c {shlex.quote(str(project / 'docker/constraints.txt'))}"


def has_tasks() -> bool:
    """Whether this Python has lm-eval, which runs tasks; imports nothing."""
    return importlib.util.find_spec("lm_eval") is not None


def install_tasks_command(project: Path) -> str:
    """The command that installs lm-eval for this Python, in the versions of the project's image."""
    requirements, constraints = (shlex.quote(str(project / each)) for each in EVAL_LISTS)
    return f"{pip_install()} -r {requirements} -c {constraints}"


def _is_installed() -> bool:
    try:
        return "train" in (importlib.metadata.metadata("dimba").get_all("Provides-Extra") or ())
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_install() -> str:
    """The command that installs packages for this Python, without their names."""
    python = shlex.quote(sys.executable)
    has_pip = importlib.util.find_spec("pip") is not None  # environments of uv have none
    return f"{python} -m pip install" if has_pip else f"uv pip install --python {python}"
