"""The GPUs of the container."""

import os

from dimba.common.contract import ENV_ALLOW_CPU
from dimba.common.errors import HostCannot
from dimba.host.facts import Gpu, GpuFacts
from dimba.host.gpus import find_gpus

_CPU = GpuFacts(problem="this service has none")


def usable_gpus(*, requested: bool) -> GpuFacts:
    """The GPUs that work in this container.

    Raises:
        HostCannot: GPUs were requested from a service that has them, and none works.
    """
    if os.environ.get("NVIDIA_VISIBLE_DEVICES") == "void":
        return _CPU
    found = find_gpus()
    if requested and not found.gpus and not os.environ.get(ENV_ALLOW_CPU):
        hint = "run `dimba doctor`, or use the CPU: the services `sft-cpu`, `grpo-cpu` and `job-cpu`"
        raise HostCannot(f"the service requests GPUs, but none works in the container: {found.problem}", hint)
    return found


def visible_devices(gpus: tuple[Gpu, ...], given: GpuFacts) -> dict[str, str]:
    """The variable that limits a job to these GPUs; empty if the container has no others."""
    return {} if len(gpus) == len(given.gpus) else {"CUDA_VISIBLE_DEVICES": ",".join(gpu.id for gpu in gpus)}
