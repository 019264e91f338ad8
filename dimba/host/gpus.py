"""Which GPUs there are: by `nvidia-smi`, else by the CDI devices that the engine can pass through."""

# Not pynvml (26 ms to import): it needs this as its fall-back, and a driver that hangs would hang it past any time-out.

import csv
import shutil
import subprocess
from collections.abc import Iterable

from dimba.host.facts import Gpu, GpuFacts

CDI_KIND = "nvidia.com/gpu="
_FIELDS = ("index", "uuid", "name", "memory.total", "compute_cap", "driver_version", "memory.free")


def find_gpus(cdi_devices: Iterable[str] = ()) -> GpuFacts:
    """The machine's GPUs; an `nvidia-smi` that is there and fails is believed over a stale CDI file."""
    if shutil.which("nvidia-smi"):
        return _by_nvidia_smi()
    numbers = sorted(int(name) for name in _cdi_names(cdi_devices) if name.isdecimal())
    gpus = tuple(Gpu(index=number) for number in numbers)
    return GpuFacts(gpus=gpus, source="CDI", problem="" if gpus else "no `nvidia-smi` on PATH")


def cdi_device(gpu: Gpu, cdi_devices: Iterable[str]) -> str | None:
    """The CDI device that is this card, by UUID where CDI names those; None where CDI does not know it."""
    names = set(_cdi_names(cdi_devices))
    for name in (gpu.uuid, str(gpu.index)):
        if name and name in names:
            return CDI_KIND + name
    return None


def _cdi_names(devices: Iterable[str]) -> list[str]:
    return [device.removeprefix(CDI_KIND) for device in devices if device.startswith(CDI_KIND)]


def _by_nvidia_smi() -> GpuFacts:
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return GpuFacts(source="nvidia-smi", problem=f"nvidia-smi did not answer: {error}")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return GpuFacts(source="nvidia-smi", problem=f"nvidia-smi: {said[0] if said else done.returncode}")
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return GpuFacts(
        gpus=tuple(_gpu(row) for row in rows if len(row) in (len(_FIELDS) - 1, len(_FIELDS))), source="nvidia-smi"
    )


def used_by_processes() -> dict[str, str]:
    """Cards on which somebody computes, by UUID: who; empty where `nvidia-smi` does not tell."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = csv.reader(done.stdout.splitlines() if done.returncode == 0 else [], skipinitialspace=True)
    return {uuid: f"process {pid} ({name})" for uuid, pid, name in (row for row in rows if len(row) == 3)}


def _gpu(row: list[str]) -> Gpu:
    index, uuid, name, memory, capability, driver, *free = (cell.strip() for cell in row)
    return Gpu(
        index=int(index),
        uuid=uuid or None,
        name=name or None,
        memory_mib=int(memory) if memory.isdecimal() else None,
        compute_capability=float(capability) if capability.replace(".", "", 1).isdecimal() else None,
        driver=driver or None,
        free_mib=int(free[0]) if free and free[0].isdecimal() else None,
    )
