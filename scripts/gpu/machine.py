"""What the machine has: the packages that the checks need, the card, CUDA, a compiler. Found before anything runs.

`python -m scripts.gpu.machine` prints it as one JSON line, in a process of its own: a broken library ends that alone.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

# What the checks import, with the oldest version that they are known to run with.
NEEDED = {
    "torch": "2.11",
    "transformers": "5.23",
    "trl": "1.16",
    "peft": "0.21",
    "accelerate": "1.15",
    "datasets": "5",
    "bitsandbytes": "0.50",
    "pydantic": "2.10",
    "ruamel.yaml": "0.18",
    "packaging": "20",
}
OPTIONAL = ("triton", "flash-attn", "liger-kernel", "torchao", "vllm", "unsloth")
_IMPORTED = ("torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "dimba.plan.placement")
_SECONDS = 180


def install(wheels: Path, target: Path) -> str:
    """Install the wheels beside the packages of this Python, which stay as they are; returns what went wrong."""
    found = [str(each) for each in sorted(wheels.glob("*.whl"))]
    if not found:
        return f"{wheels} has no wheels"
    sys.path.insert(0, str(target.resolve()))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(target.resolve()), os.environ.get("PYTHONPATH"))))
    done = target / "installed.txt"
    if done.exists() and done.read_text(encoding="utf-8").split("\n") == found:
        return ""
    flags = ("--quiet", "--no-index", "--no-deps", "--upgrade", "--target", str(target))
    if status := subprocess.run([sys.executable, "-m", "pip", "install", *flags, *found], check=False).returncode:
        return f"pip ended with exit status {status}"
    done.write_text("\n".join(found), encoding="utf-8")
    return ""


def missing() -> list[str]:
    """The packages that are not installed or too old."""
    found = {name: _older(name, least) for name, least in NEEDED.items()}
    return [f"{name}>={NEEDED[name]} ({here or 'missing'})" for name, here in found.items() if here is not None]


def _older(name: str, least: str) -> str | None:
    """The installed version if it is older than `least`, empty if there is none; None if it is new enough."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return ""
    return found if _numbers(found) < _numbers(least) else None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.partition("+")[0].split(".") if part.isdecimal())


def unmet(names: Iterable[str]) -> Iterator[str]:
    """Requirements of installed packages, and of those that they require, which are not met.

    Torch is trusted: its CUDA libraries may come from elsewhere than from packages.
    """
    from packaging.requirements import Requirement

    seen, left = {"torch"}, [name for name in names if name != "torch"]
    while left:
        name = left.pop()
        for each in map(Requirement, distribution(name).requires or ()):
            if each.name in seen or (each.marker and not each.marker.evaluate({"extra": ""})):
                continue
            seen.add(each.name)
            if (here := _version(each.name)) and each.specifier.contains(here, prereleases=True):
                left.append(each.name)
            else:
                yield f"{name} needs {each.name}{each.specifier} ({here or 'missing'})"


def look(device: str) -> tuple[dict[str, Any], str]:
    """(the machine's facts, why the checks cannot run on the device; empty if they can)."""
    command = [sys.executable, "-m", "scripts.gpu.machine"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"the libraries are not imported, or the GPU does not answer, within {_SECONDS} s"
    try:
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {}, f"the libraries cannot be imported: {lines[-1]}"
    if device == "cpu":
        return facts, ""
    if not facts["cards"]:
        return facts, f"torch {facts['torch']} sees no GPU: {facts['no_cards']}"
    return facts, facts["compiler"]


def main() -> int:
    """Print the facts."""
    for name in _IMPORTED:
        __import__(name)
    import torch

    cards = [_card(number) for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cards": cards,
        "no_cards": "" if cards else _why_no_cards(),
        "compiler": _compiler_problem(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in (*NEEDED, *OPTIONAL)},
    }
    print(json.dumps(facts))
    return 0


def _card(number: int) -> dict[str, Any]:
    import torch

    each = torch.cuda.get_device_properties(number)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return {"name": each.name, "bytes": each.total_memory, "capability": f"{each.major}.{each.minor}", "bf16": bf16}


def _why_no_cards() -> str:
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no device"


def _compiler_problem() -> str:
    from dimba.common.errors import HostCannot
    from dimba.trainers.models.loading import check_compiler

    try:
        check_compiler()
    except HostCannot as error:
        return error.cause
    return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
