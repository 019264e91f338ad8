"""Finds values in a spec that look like secrets, which a spec may name and never contain."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from dimba.common.contract import SHORTEST_SECRET, is_secret_name
from dimba.spec.yaml12 import Key

# Tokens of well-known services, passwords in an address, and the first line of a key file.
_TOKEN = re.compile(
    r"\b(?:hf_(?:oauth_)?[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"
    r"|sk-[A-Za-z0-9]{20,}|sk-(?:proj|svcacct|admin|ant|or)-[\w-]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}|wandb_v1_\w{16,}|dckr_pat_[\w-]{16,}|npm_[A-Za-z0-9]{30,}"
    r"|pypi-[\w-]{30,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@|\bBearer\s+[\w.~+/-]{16,}",
)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# Only flags that can hold nothing else: `eos-token`, `text-key` and the like name other things.
_FLAG = re.compile(
    r"(?:^|[-_.])(?:(?:api|access|auth|bearer|hf|hub|wandb|login|private|push[-_]to[-_]hub)[-_]?(?:key|token)"
    r"|secret|password|passwd|credentials?)$",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"(?:true|false|yes|no|on|off|none|auto|\d{1,4})?", re.IGNORECASE)  # a switch, not a secret
_TAKEN = "it is taken from the host at launch"


def secrets_in(value: Any, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Yields (key, cause) for every text that looks like a secret, names of keys included."""
    if isinstance(value, dict):
        for name, item in value.items():
            if _TOKEN.search(name):
                yield key, f"a key that looks like a secret; name it in `container.env` instead, {_TAKEN}"
            yield from secrets_in(item, (*key, name))
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from secrets_in(item, (*key, n))
    elif isinstance(value, str) and (cause := _secret(value, key)):
        yield key, cause


def mask_secrets(text: str, values: Iterable[str]) -> str:
    """The text with `***` for these values and for texts that look like secrets; values too short to mask stay."""
    for value in sorted((each for each in values if len(each) >= SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(value, "***")
    return _TOKEN.sub("***", text)


def _secret(value: str, key: Key) -> str:
    name, equals, content = value.partition("=")
    written = equals and not _PLAIN.fullmatch(content)
    if written and is_secret_name(name) and (key[:2] == ("container", "env") or _VARIABLE.fullmatch(name)):
        return f"`{name}` is written with its value; write the name alone in `container.env`, {_TAKEN}"
    if _TOKEN.search(value):
        return f"looks like a secret; name it in `container.env` instead, {_TAKEN}"
    flag = str(key[1]) if len(key) > 1 and key[0] == "trainer_args" else ""
    if _FLAG.search(flag) and not _PLAIN.fullmatch(value):
        return f"every user of the machine can read a flag; name the secret in `container.env` instead, {_TAKEN}"
    return ""
