"""The cards that the container was given."""

import os

from dimba.common.contract import ENV_ALLOW_CPU
from dimba.common.errors import HostCannot
from dimba.host.facts import Gpu, GpuFacts
from dimba.host.gpus import find_gpus

_CPU = GpuFacts(problem="this service has none")


def cards(*, wanted: bool) -> GpuFacts:
    """What works in here; raises HostCannot where the service was given cards, the job wants them, and none does."""
    if os.environ.get("NVIDIA_VISIBLE_DEVICES") == "void":
        return _CPU
    found = find_gpus()
    if wanted and not found.gpus and not os.environ.get(ENV_ALLOW_CPU):
        hint = (
            "the services `sft-cpu`, `grpo-cpu` and `job-cpu` are for the CPU; `dimba doctor` looks for what is wrong"
        )
        raise HostCannot(f"the engine was asked for GPUs, and in the container none works: {found.problem}", hint)
    return found


def only(gpus: tuple[Gpu, ...], given: GpuFacts) -> dict[str, str]:
    """The variable that shows a job these cards, where the container has more."""
    return {} if len(gpus) == len(given.gpus) else {"CUDA_VISIBLE_DEVICES": ",".join(gpu.id for gpu in gpus)}
