"""The machine's GPUs, from `nvidia-smi`, else from the CDI devices that the engine can pass through."""

# Not pynvml (26 ms to import): it needs this as its fall-back, and a driver that hangs would hang it past any time-out.

import csv
import shutil
import subprocess
from collections.abc import Iterable

from dimba.host.facts import Gpu, GpuFacts

CDI_KIND = "nvidia.com/gpu="
_SECONDS = 20  # for `nvidia-smi`, which takes long to load a driver
_FIELDS = ("index", "uuid", "name", "memory.total", "compute_cap", "driver_version", "memory.free")


def find_gpus(cdi_devices: Iterable[str] = ()) -> GpuFacts:
    """The machine's GPUs; a failing `nvidia-smi` counts more than a CDI file, which may be stale."""
    if shutil.which("nvidia-smi"):
        return _by_nvidia_smi()
    numbers = sorted(int(name) for name in _cdi_names(cdi_devices) if name.isdecimal())
    gpus = tuple(Gpu(index=number) for number in numbers)
    return GpuFacts(gpus=gpus, source="CDI", problem="" if gpus else "no `nvidia-smi` on PATH")


def cdi_device(gpu: Gpu, cdi_devices: Iterable[str]) -> str | None:
    """The CDI device of this GPU, by UUID, else by index; None if CDI does not list it."""
    names = set(_cdi_names(cdi_devices))
    for name in (gpu.uuid, str(gpu.index)):
        if name and name in names:
            return CDI_KIND + name
    return None


def _cdi_names(devices: Iterable[str]) -> list[str]:
    return [device.removeprefix(CDI_KIND) for device in devices if device.startswith(CDI_KIND)]


def _by_nvidia_smi() -> GpuFacts:
    try:
        result = _nvidia_smi(f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    except (OSError, subprocess.TimeoutExpired) as error:
        return GpuFacts(source="nvidia-smi", problem=f"nvidia-smi did not answer: {error}")
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        return GpuFacts(source="nvidia-smi", problem=f"nvidia-smi: {lines[0] if lines else result.returncode}")
    rows = [row for row in _rows(result.stdout) if len(row) in (len(_FIELDS) - 1, len(_FIELDS))]
    return GpuFacts(gpus=tuple(map(_gpu, rows)), source="nvidia-smi")


def used_by_processes() -> dict[str, str]:
    """The process that computes on each GPU in use, by the GPU's UUID; empty if `nvidia-smi` does not report them."""
    if not shutil.which("nvidia-smi"):
        return {}
    try:
        result = _nvidia_smi("--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader")
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = _rows(result.stdout) if result.returncode == 0 else []
    return {uuid: f"process {pid} ({name})" for uuid, pid, name in (row for row in rows if len(row) == 3)}


def _nvidia_smi(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False)


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines(), skipinitialspace=True))


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
