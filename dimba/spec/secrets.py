"""Secrets are named in a spec, never written: finds values that look like one."""

import re
from collections.abc import Iterator
from typing import Any

from dimba.spec.yaml12 import Key

_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|glpat-[\w-]{16,}|wandb_v1_\w{16,})\b"
)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def secrets_in(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """(key, what to do) for every string that looks like a secret."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from secrets_in(item, (*key, name))
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from secrets_in(item, (*key, n))
    elif isinstance(value, str):
        name, equals, content = value.partition("=")
        is_env = key[:2] == ("container", "env")
        if is_env and equals and content and _SECRET_NAME.search(name):
            yield (
                key,
                f"`{name}` is written with its value; write the name alone, it is taken from the host at launch",
            )
        elif _TOKEN.search(value):
            yield (
                key,
                "looks like a secret; name it in `container.env` instead, it is taken from the host at launch",
            )
