"""The last step before the job: secrets on its stdin, and the entry point in place of this process."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dimba.common.contract import ENV_SECRETS_ON_STDIN
from dimba.common.errors import HostCannot

_SECRETS = Path("/run/secrets")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What becomes of the container's first process."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)


def start(what: Start) -> None:
    """Does not return: the entry point is this process from now on, so that signals and status are its own."""
    environment = {**os.environ, **what.environment}
    if what.secrets:
        _put_on_stdin(json.dumps(dict(what.secrets)).encode() + b"\n")
        environment[ENV_SECRETS_ON_STDIN] = "1"
    os.chdir(what.folder)
    os.execvpe(what.argv[0], what.argv, environment)  # noqa: S606  # no shell is what is wanted


def _put_on_stdin(line: bytes) -> None:
    """Where the entry point looks for them: a pipe holds more than all secrets of a job."""
    read, write = os.pipe()
    os.write(write, line)
    os.close(write)
    os.dup2(read, 0)


def secrets_given() -> dict[str, str]:
    """The files that `secrets:` of compose.yaml put here, each named as its variable; an empty one is not given."""
    found = sorted(_SECRETS.iterdir()) if _SECRETS.is_dir() else []
    values = {path.name.upper(): _content(path) for path in found}
    return {name: value for name, value in values.items() if value}


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except PermissionError:
        hint = f"give that file to user {os.geteuid()}: compose mounts it as it is"
        raise HostCannot(f"the file of the secret {path.name} may not be read by the job's user", hint) from None
