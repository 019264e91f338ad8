"""Secrets, and the command that replaces the container's first process."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dimba.common.contract import ENV_SECRETS_ON_STDIN
from dimba.common.errors import HostCannot

_SECRETS = Path("/run/secrets")


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command that replaces the container's first process."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)


def execute(command: Command) -> None:
    """Replace this process by the command, which then receives signals and sets the exit status; never returns."""
    environment = {**os.environ, **command.environment}
    if command.secrets:
        _put_on_stdin(json.dumps(dict(command.secrets)).encode() + b"\n")
        environment[ENV_SECRETS_ON_STDIN] = "1"
    os.chdir(command.folder)
    os.execvpe(command.argv[0], command.argv, environment)  # noqa: S606  # no shell on purpose


def _put_on_stdin(line: bytes) -> None:
    """Make stdin a pipe with this line; its buffer holds all secrets of a job without a reader."""
    read, write = os.pipe()
    os.write(write, line)
    os.close(write)
    os.dup2(read, 0)


def read_secrets() -> dict[str, str]:
    """The secrets of compose.yaml by their variables' names; an empty file, such as /dev/null, is no secret."""
    found = sorted(_SECRETS.iterdir()) if _SECRETS.is_dir() else []
    values = {path.name.upper(): _content(path) for path in found}
    return {name: value for name, value in values.items() if value}


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except PermissionError:
        uid = os.geteuid()
        hint = f"run `sudo chown {uid}` on that file: compose mounts it with its owner"
        raise HostCannot(f"the job's user {uid} may not read the file of the secret {path.name}", hint) from None
