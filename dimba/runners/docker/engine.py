"""Finding the engine, and what it says of itself."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from docker.errors import DockerException, TLSParameterError
from requests.exceptions import RequestException

import docker
from dimba.host.cdi import cdi_devices
from dimba.host.facts import EngineFacts

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
_SECONDS = 5


@dataclass(frozen=True)
class Engine:
    """A client without time-outs, as a followed log may be silent for hours, and the engine's facts."""

    api: docker.APIClient
    facts: EngineFacts


def engine_address() -> str:
    """`DOCKER_HOST`, else the current context's, else the default socket."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    return context_address(context_name()) or DEFAULT_ADDRESS


def context_name() -> str:
    """What `docker context show` says; `DOCKER_HOST` goes before any context."""
    from docker.context.config import get_current_context_name

    return os.environ.get("DOCKER_CONTEXT") or str(get_current_context_name())


def context_address(name: str) -> str | None:
    """Where the engine of a context listens; None where there is no such context."""
    from docker.context import ContextAPI

    try:
        context = ContextAPI.get_context(name)
    except (DockerException, OSError, ValueError):
        return None
    return context.Host if context else None


def connect() -> Engine | EngineFacts:
    """The engine where one answers within seconds, else facts that say why not."""
    address = engine_address()
    if not _is_local(address):
        return EngineFacts(reachable=True, address=address, local=False)
    try:
        info = docker.APIClient(base_url=address, timeout=_SECONDS, version="auto").info()
        api = docker.APIClient(base_url=address, timeout=None, version="auto")  # type: ignore[arg-type]  # None is no time-out
    except (DockerException, TLSParameterError, RequestException, OSError) as error:
        return EngineFacts(reachable=False, address=address, problem=_why(address, error))
    return Engine(api, replace(_facts(address, info), proxies=frozenset(configured_proxies(address))))


def configured_proxies(address: str) -> dict[str, str]:
    """The variables that the client's configuration (~/.docker/config.json) sets in builds and containers."""
    from docker.utils.config import load_general_config
    from docker.utils.proxy import ProxyConfig

    proxies = load_general_config().get("proxies", {})
    found = ProxyConfig.from_dict(proxies.get(address, proxies.get("default", {}))).get_environment()
    return {name: str(value) for name, value in found.items()}


def engine_started(facts: EngineFacts) -> float:
    """When the engine that answers began, seconds since the epoch: it makes its socket then. 0 where that is hidden."""
    try:
        return Path(facts.address.partition("://")[2]).stat().st_mtime
    except OSError:
        return 0.0


def _is_local(address: str) -> bool:
    return address.startswith(("unix://", "http+unix://", "npipe://"))


def _why(address: str, error: Exception) -> str:
    path = address.partition("://")[2]
    text = str(error)
    if "Permission denied" in text:
        return f"{path} may not be opened by this user: `sudo usermod -aG docker $USER`, then log in again"
    if "No such file" in text or "FileNotFoundError" in text:
        return f"nothing listens on {path}"
    if "Connection refused" in text:
        return f"{path} is there, but no engine answers on it"
    return f"{path}: {text.splitlines()[0][:200]}"


def _facts(address: str, info: dict[str, Any]) -> EngineFacts:
    security = info.get("SecurityOptions") or []
    discovered = [device["ID"] for device in info.get("DiscoveredDevices") or [] if device.get("Source") == "cdi"]
    return EngineFacts(
        reachable=True,
        address=address,
        version=str(info.get("ServerVersion", "")),
        rootless=any("rootless" in option for option in security),
        cdi_devices=frozenset(discovered) or cdi_devices(info.get("CDISpecDirs") or ()),
    )
