"""Which of several equal ways is the quickest on this card: measured once, and kept on disk for later runs.

One file per question and key in the Hugging Face cache, which runs share and containers mount. The key holds the card,
the driver and the version of torch; the caller adds what else the times depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from huggingface_hub import constants

from dimba.common.errors import kind_and_line
from dimba.trainers.ranks import is_main_process

_Value = TypeVar("_Value")
_WARM, _ROUNDS = 2, 5  # calls before the measured ones, and the measured ones

Candidates = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Timings:
    """Seconds per call by candidate (the median), the reason by candidate that raised, and whether they were kept."""

    seconds: dict[str, float]
    problems: dict[str, str] = field(default_factory=dict)
    is_cached: bool = False

    @property
    def quickest(self) -> str | None:
        """The candidate with the least time; None if all of them raised."""
        return min(self.seconds, key=lambda name: self.seconds[name], default=None)


def timings_folder() -> Path:
    """The folder of measured times, beside that of tokens."""
    return Path(constants.HF_HOME, "dimba", "timings")


def quickest(question: str, key: Mapping[str, object], candidates: Candidates, device: torch.device) -> Timings:
    """The times of `candidates` on `device`, from disk if all of them were measured before.

    `question` is a word for the file's name; `key` are JSON values. A candidate that raises is out. Candidates are
    called several times in turn, on the first rank only, and the others get its answer: all ranks must call this
    together, and no candidate may communicate. Random numbers are restored; the caller's tensors must not change.
    """
    return decided_by_first_rank(lambda: _recall_or_measure(question, key, candidates, device))


def decided_by_first_rank(decide: Callable[[], _Value]) -> _Value:
    """The value that `decide` returns on the first rank; all connected ranks must call this together.

    `decide` must not raise, or the others wait in vain.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return decide()
    holder = [decide() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(holder, src=0)
    return holder[0]  # type: ignore[return-value]


def _recall_or_measure(
    question: str, key: Mapping[str, object], candidates: Candidates, device: torch.device
) -> Timings:
    full_key = json.dumps({**machine(device), **key}, sort_keys=True, default=str)
    path = timings_folder() / f"{question}-{hashlib.sha256(full_key.encode()).hexdigest()[:24]}.json"
    if kept := _read(path, full_key, candidates):
        return kept
    if is_main_process():  # compilers may take a minute
        print(f"{question}: measuring {', '.join(candidates)} on this machine, once", flush=True)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # a run that measures must draw the numbers of one that recalls
        timings, is_lasting = _measure(candidates, device)
    if is_lasting:
        _write(path, full_key, timings)
    return timings


def machine(device: torch.device) -> dict[str, object]:
    """What the times of any kernel depend on: the card, its driver, and the versions of torch and Triton."""
    versions: dict[str, object] = {"torch": torch.__version__, "device": device.type}
    if device.type != "cuda":
        return versions
    driver = torch._C._cuda_getDriverVersion() if hasattr(torch._C, "_cuda_getDriverVersion") else None
    capability = torch.cuda.get_device_capability(device)
    return {**versions, "card": torch.cuda.get_device_name(device), "capability": capability, "driver": driver}


def _measure(candidates: Candidates, device: torch.device) -> tuple[Timings, bool]:
    """(the times, whether they will hold another time: a card that was full by chance says nothing of a candidate)."""
    problems: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    is_lasting = True
    for number in range(_WARM + _ROUNDS):  # in turn, so that a card that heats up slows down all of them
        for name in [each for each in candidates if each not in problems]:
            try:
                taken = _seconds(candidates[name], device)
            except Exception as error:  # a kernel may raise anything, and a compiler too
                problems[name] = kind_and_line(error)[:200]
                is_lasting = is_lasting and not isinstance(error, torch.OutOfMemoryError)
            else:
                seconds[name] += [taken] if number >= _WARM else []
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Timings({name: median(each) for name, each in seconds.items() if name not in problems}, problems), is_lasting


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read(path: Path, key: str, names: Sequence[str] | Candidates) -> Timings | None:
    """The kept times of these candidates; None if one is missing or the file cannot be read: it is measured again."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != key or set(names) - {*kept["seconds"], *kept["problems"]}:
            return None
        seconds = {name: float(kept["seconds"][name]) for name in names if name in kept["seconds"]}
        problems = {name: str(kept["problems"][name]) for name in names if name in kept["problems"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Timings(seconds, problems, is_cached=True)


def _write(path: Path, key: str, timings: Timings) -> None:
    """Renames a complete file into place; where the folder cannot be written, the next run measures again."""
    kept = asdict(timings)
    text = json.dumps({"key": key, "seconds": kept["seconds"], "problems": kept["problems"]}, indent=1)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        number, part = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".part")
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(part).replace(path)
