"""The proxies of this machine: for the image's build, and the names by which a job can be given them."""

import os
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, urlsplit

_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
# Docker's predefined build arguments: neither the image nor its history keeps them.
PROXY_VARIABLES = frozenset({*_NAMES, *map(str.lower, _NAMES)})
_LOOPBACK = ("localhost", "::1", "0.0.0.0")  # noqa: S104  # compared, not bound


def build_proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Build arguments with the proxies of the environment, in both spellings: apt reads only the lower one."""
    found: dict[str, str] = {}
    for name in _NAMES:
        upper, lower = environment.get(name), environment.get(name.lower())
        if upper or lower:
            found |= {name: upper or lower or "", name.lower(): lower or upper or ""}
    return found


def proxies_in(names: Iterable[str]) -> list[str]:
    """Those of the variables that name a proxy; `NO_PROXY` alone names none."""
    return sorted(name for name in PROXY_VARIABLES & set(names) if not name.upper().startswith("NO_"))


def is_on_this_machine(proxy: str) -> bool:
    """Whether a proxy listens on the loopback, which a container's own network does not reach."""
    try:
        host = urlsplit(proxy if "://" in proxy else f"//{proxy}").hostname or ""
    except ValueError:
        return False
    return host in _LOOPBACK or host.startswith("127.")


def secrets_of(proxies: Mapping[str, str]) -> list[str]:
    """The values and passwords of proxies that need a login, as given and decoded, to be masked in what is printed."""
    logins = [value for value in proxies.values() if "@" in value]
    words = [value.rpartition("@")[0].rpartition("/")[2].rpartition(":")[2] for value in logins]  # or a token alone
    return [*logins, *words, *(plain for each in words if (plain := unquote(each)) != each)]
