"""Variables of the job, and of whatever else runs where jobs do."""

from collections.abc import Collection
from pathlib import Path

from dimba.common import contract
from dimba.plan.model import MemoryEstimate
from dimba.spec import JobSpec


def job_environment(cache: Path, *, inside: bool) -> dict[str, str]:
    """Variables of whatever runs where jobs do, with GPUs or without."""
    environment = {"HF_HOME": str(cache), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true"}
    return environment | _caches() if inside else environment


def spec_environment(spec: JobSpec) -> tuple[tuple[str, ...], dict[str, str]]:
    """(names whose values the host gives, variables with their values) of `container.env`."""
    named = tuple(item for item in spec.container.env if "=" not in item)
    written = dict(item.split("=", 1) for item in spec.container.env if "=" in item)
    return named, {**hub_login(named), **written}


def hub_login(named: Collection[str]) -> dict[str, str]:
    """The Hub's client would find the login that lies in the cache; a token goes only where it is named."""
    return {} if "HF_TOKEN" in named else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def _caches() -> dict[str, str]:
    # The job's uid has no name and no home in the image; torch and triton fail without either.
    home = Path(contract.IMAGE_HOME)
    return {
        "HOME": str(home),
        "USER": "dimba",
        "LOGNAME": "dimba",
        "XDG_CACHE_HOME": str(home / ".cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / ".cache" / "inductor"),
        "TRITON_CACHE_DIR": str(home / ".cache" / "triton"),
    }


def limit_environment(grace: float, time_limit: float | None, *, kill_hung: bool) -> dict[str, str]:
    """What the entry point is told of its job's time; seconds."""
    limits = {contract.ENV_STOP_GRACE: f"{grace:.0f}"}
    if time_limit is not None:
        limits[contract.ENV_TIME_LIMIT] = f"{time_limit:g}"
    return limits | ({contract.ENV_KILL_HUNG: "1"} if kill_hung else {})


def memory_environment(memory: MemoryEstimate | None) -> dict[str, str]:
    """The estimate that the trainer holds its measurement against, where all of it is counted."""
    known = memory is not None and memory.peak and not memory.lower_bound
    return {contract.ENV_MEMORY: str(memory.total)} if memory and known else {}
