"""What of a container is asked for in the engine's own terms."""

from collections.abc import Sequence
from typing import Any

from docker.types import DeviceRequest, Mount

from dimba.host.facts import Gpu
from dimba.plan.model import Mount as PlannedMount

# Without a network, a job can resolve neither its own name nor the address at which its ranks rendezvous.
OWN_NAME = "dimba"
NAMES = {OWN_NAME: "127.0.0.1", "ranks": "::ffff:127.0.0.1"}
LOCKED_DOWN: dict[str, Any] = {"init": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}


def gpu_requests(gpus: Sequence[Gpu], cdi_devices: Sequence[str]) -> list[DeviceRequest]:
    """Requests by id, as a count always means the first GPUs."""
    if not gpus:
        return []
    if cdi_devices:
        return [DeviceRequest(driver="cdi", device_ids=list(cdi_devices))]
    ids = [gpu.id for gpu in gpus]
    return [DeviceRequest(driver="nvidia", device_ids=ids, capabilities=[["gpu"]])]


def mounts(planned: Sequence[PlannedMount]) -> list[Mount]:
    """Binds of host paths."""
    return [Mount(each.target, each.source, type="bind", read_only=each.read_only) for each in planned]
