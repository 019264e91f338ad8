"""The secrets of a job or a one-shot command: one JSON line on stdin, which `docker inspect` does not show."""

import json
import os
import sys

from dimba.common import contract


def read_secrets() -> dict[str, str]:
    """Secrets by name: from stdin, if the environment says that they come there, or from named variables."""
    if names := os.environ.get(contract.ENV_SECRET_NAMES, "").split():
        return {name: os.environ[name] for name in names if name in os.environ}
    if not os.environ.pop(contract.ENV_SECRETS_ON_STDIN, ""):
        return {}
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        problem = "the launcher ended before it passed on the job's secrets"
        raise SystemExit(f"error: {problem}\n\nhint: `dimba resume` starts the job again")
    values: dict[str, str] = json.loads(line)
    return values
