"""Environment variables of jobs and one-shot commands."""

from collections.abc import Collection
from pathlib import Path

from dimba.common import contract
from dimba.plan.model import MemoryEstimate
from dimba.spec import JobSpec


def job_environment(cache: Path, *, inside: bool) -> dict[str, str]:
    """Variables of a job or a one-shot command."""
    environment = {"HF_HOME": str(cache), "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "true"}
    return environment | _kernel_caches(cache) | (_home() if inside else {})


def spec_environment(spec: JobSpec) -> tuple[tuple[str, ...], dict[str, str]]:
    """(names that the host sets at launch, variables with their values) of `container.env`."""
    named = tuple(item for item in spec.container.env if "=" not in item)
    written = dict(item.split("=", 1) for item in spec.container.env if "=" in item)
    return named, {**hub_login(named), **written}


def hub_login(named: Collection[str]) -> dict[str, str]:
    """Variables that keep the Hub's client from using the cached login, unless the spec names HF_TOKEN."""
    return {} if "HF_TOKEN" in named else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def _kernel_caches(cache: Path) -> dict[str, str]:
    # Where the job's user may write, also below a launcher run by root; compiled once, not in each container.
    folder = cache / "dimba" / "kernels"
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}


def _home() -> dict[str, str]:
    # The job's uid has no name and no home in the image; torch and triton fail without either.
    home = Path(contract.IMAGE_HOME)
    return {"HOME": str(home), "USER": "dimba", "LOGNAME": "dimba", "XDG_CACHE_HOME": str(home / ".cache")}


def limit_environment(grace: float, time_limit: float | None, *, kill_hung: bool) -> dict[str, str]:
    """The time limits of the entry point, in seconds."""
    limits = {contract.ENV_STOP_GRACE: f"{grace:.0f}"}
    if time_limit is not None:
        limits[contract.ENV_TIME_LIMIT] = f"{time_limit:g}"
    return limits | ({contract.ENV_KILL_HUNG: "1"} if kill_hung else {})


def memory_environment(memory: MemoryEstimate | None) -> dict[str, str]:
    """The memory estimate for the trainer to compare its measurement with, if it is complete."""
    known = memory is not None and memory.peak and not memory.lower_bound
    return {contract.ENV_MEMORY: str(memory.total)} if memory and known else {}
