"""What a GPU changes for the launcher: `nvidia-smi`, the engine, the driver in a container, leases, busy GPUs."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dimba.host.gpus import find_gpus, used_by_processes
from scripts.gpu.context import Context, Found
from scripts.gpu.results import ABSENT, RIGHT, WRONG, Result

_OUTCOMES = {"ok": RIGHT, "warning": ABSENT, "error": WRONG}
_HOLDER = "import torch; kept = torch.ones(1 << 26, device='cuda'); print('ready', flush=True); input()"
ENGINE = "engine"
_PACKAGES = ("docker", "rich", "InquirerPy")  # of the launcher, beside those of the trainers


def probes(context: Context) -> Found:
    """What `nvidia-smi` reports, as the launcher reads it, and a GPU that another process uses."""
    found = find_gpus()
    if not found.gpus:
        yield context.result("nvidia-smi", ABSENT, found.problem)
        return
    for gpu in found.gpus:
        known = (gpu.uuid, gpu.name, gpu.memory_mib, gpu.free_mib, gpu.compute_capability, gpu.driver)
        detail = f"{gpu.name}, {gpu.memory_mib} MiB, {gpu.free_mib} free, capability {gpu.compute_capability}"
        outcome = RIGHT if all(known) else WRONG
        yield context.result(f"GPU {gpu.index}", outcome, f"{detail}, driver {gpu.driver}, {gpu.uuid}")
    if context.device == "cuda":
        yield _busy(context)


def _busy(context: Context) -> Result:
    """Whether the launcher sees that a process uses a GPU."""
    with _held_gpu() as pid:
        users = used_by_processes()
    if not users:
        return context.result("busy", ABSENT, "nvidia-smi reports no processes: in a container it sees none")
    return context.result("busy", RIGHT if str(pid) in " ".join(users.values()) else WRONG, str(users))


@contextlib.contextmanager
def _held_gpu() -> Iterator[int]:
    """A process that has memory of the first GPU; yields its id."""
    command = [sys.executable, "-c", _HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdin, "they are pipes"
        holder.stdout.readline()
        yield holder.pid
        holder.stdin.close()


def doctor(context: Context) -> Found:
    """Every line of `dimba doctor`; without an engine that line alone."""
    lines = examined(context)
    for each in [line for line in lines if line["name"] == ENGINE] if not has_engine(lines) else lines:
        detail = " - ".join(filter(None, (each["detail"], each["fix"])))
        outcome = _OUTCOMES[each["status"]] if has_engine(lines) else ABSENT
        yield context.result(each["name"], outcome, detail)


def examined(context: Context) -> list[dict[str, str]]:
    """The checks of `dimba doctor`; without the launcher's packages one line that names them."""
    if lacking := [name for name in _PACKAGES if find_spec(name) is None]:
        return [{"name": ENGINE, "status": "error", "detail": f"not installed: {', '.join(lacking)}", "fix": ""}]
    done = dimba(context, "doctor", "--json")
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def has_engine(lines: list[dict[str, str]]) -> bool:
    """Whether a container engine answers."""
    return any(line["name"] == ENGINE and line["status"] == "ok" for line in lines)


def dimba(context: Context, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the launcher, run in a folder of its own; its output is in the log too."""
    folder = launcher_folder(context)
    done = subprocess.run(
        [sys.executable, "-m", "dimba", *arguments],
        cwd=folder,
        env={**os.environ, "DIMBA_RUNS": str(folder / "runs")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    print(*arguments, done.returncode, done.stdout, done.stderr, sep="\n", flush=True)
    return done


def launcher_folder(context: Context) -> Path:
    """The folder that the launcher's commands run in."""
    folder = context.folder.resolve() / "launcher"
    folder.mkdir(exist_ok=True)
    return folder
