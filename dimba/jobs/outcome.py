"""What became of a run: its status, its exit reason, and what to say to whoever waited for it."""

import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.checkpoints import newest_whole
from dimba.common.errors import BadInput, DimbaError, HostCannot, Interrupted, RunFailed, from_json
from dimba.records import RunFolder
from dimba.runners.protocol import Ending

Judgement = tuple[str, str, DimbaError | None]  # status, exit reason, error to raise

_GIB = 1 << 30
_KILLED = 128 + signal.SIGKILL
_NOT_EXECUTED = (126, 127)  # what `env` says of a program that may not be executed, or is not there
TRANSIENT = ("hung", "engine_lost", "killed", "container_missing", "node_failed")  # which may go well another time

# What was wrong, and what to change.
_MEANINGS = {
    "out_of_memory": (
        "ran out of host memory",
        "raise `resources.memory`, or lower `training.batch_size` or `training.max_length`",
    ),
    "gpu_out_of_memory": (
        "ran out of GPU memory",
        "lower `training.batch_size` (and raise `grad_accumulation_steps` alike), lower `training.max_length`, or take "
        "`method: lora` or `qlora`",
    ),
    "shm_too_small": ("ran out of shared memory", "raise `resources.shm_size`, as in `shm_size: 8g`"),
    "disk_full": ("ran out of disk", "make room where `output_dir` and the run's folder are"),
    "hung": ("hung: its steps no longer came", "look at its log for what it waited for"),
}


class OwnWord:
    """The lines of a log with which a trainer ends: whoever follows is told of them once, by the error of the run."""

    def __init__(self, attempt: Path) -> None:
        self._path = attempt / contract.WORD_FILE
        self._held: list[str] = []
        self._expected: list[str] = []

    def holds(self, line: str) -> bool:
        """Whether this line is one of them."""
        if line.startswith("error: "):
            self._expected = f"error: {from_json(contract.json_object(self._path))}".split("\n")
        if self._expected[:1] != [line]:
            return False
        self._held.append(self._expected.pop(0))
        return True

    def untold(self, error: DimbaError | None) -> Iterable[str]:
        """What was held back, where the error says something else."""
        word = from_json(contract.json_object(self._path))
        return () if error and word.message in error.message else self._held


def classify_outcome(ending: Ending | None, folder: RunFolder, *, stopping: bool) -> Judgement:
    """How a job that ended so is put on record; `stopping` where somebody here told it to."""
    word = folder.last_word()
    if ending is not None and ending.reason:
        return _by_scheduler(folder, ending, stopping=stopping)
    if ending is not None and word.get("exit_code") != ending.exit_code:
        word = {}  # of another attempt, or of somebody else's status
    code = ending.exit_code if ending else word.get("exit_code")
    if code == 0:
        return "succeeded", "completed", None
    if code is None:
        status = ("stopped", "killed") if stopping else ("lost", "container_missing")
        return *status, RunFailed(f"run {folder.id}: its job is gone", _go_on(folder))
    reason = str(word.get("reason") or "")
    if reason in (contract.REFUSED, contract.NO_GPU):
        return "failed", "start_failed", _refusal(folder, word)
    if code == contract.EXIT_STOPPED and not (stopping or reason) and ending and ending.engine_restarted:
        return "failed", *_engine_lost(folder)
    if stopping or reason == "time_limit" or code == contract.EXIT_STOPPED:
        return _stopped(folder, code, reason, stopping=stopping)
    return "failed", *_failed(folder, ending, word)


def _by_scheduler(folder: RunFolder, ending: Ending, *, stopping: bool) -> Judgement:
    if ending.reason in ("time_limit", "cancelled"):
        return _stopped(folder, ending.exit_code, ending.reason, stopping=stopping)
    return "failed", ending.reason, RunFailed(f"run {folder.id}: a node of its job failed", _go_on(folder))


def _refusal(folder: RunFolder, word: Mapping[str, Any]) -> DimbaError:
    if word["reason"] == contract.REFUSED:
        return from_json(word)
    hint = "`dimba doctor` looks closer; `--allow-cpu` goes on without, `gpus: none` asks for the CPU"
    return HostCannot(f"run {folder.id}: the GPUs do not work inside", hint)


def _stopped(folder: RunFolder, code: int, reason: str, *, stopping: bool) -> Judgement:
    if reason == "time_limit":
        return "stopped", reason, RunFailed(f"run {folder.id} reached its time limit", _go_on(folder))
    if code == _KILLED:
        late = "did not save in time, and was killed" if reason == "killed" else "was killed"
        error = Interrupted if stopping else RunFailed
        return "stopped", "killed", error(f"run {folder.id} {late}", _go_on(folder))
    if stopping:
        return "stopped", "stopped_by_user", Interrupted(f"run {folder.id} stopped", _go_on(folder))
    return "stopped", "stopped_by_user", RunFailed(f"run {folder.id} was stopped elsewhere", _go_on(folder))


def _engine_lost(folder: RunFolder) -> tuple[str, DimbaError]:
    return "engine_lost", RunFailed(f"run {folder.id}: the engine was restarted, and ended its job", _go_on(folder))


def _failed(folder: RunFolder, ending: Ending | None, word: Mapping[str, Any]) -> tuple[str, DimbaError]:
    """(exit reason, error) of a job that nobody told to end."""
    reason = str(word.get("reason") or "")
    if ending and ending.out_of_memory and reason in ("", "killed", "trainer_error"):
        reason = "out_of_memory"
    if not reason and ending and ending.engine_restarted:
        return _engine_lost(folder)
    code = ending.exit_code if ending else word["exit_code"]
    if not word and code in _NOT_EXECUTED:
        return "start_failed", _not_executed(folder)
    reason = reason or ("killed" if code == _KILLED else "trainer_error")
    said = from_json(word)
    if said.cause:  # the trainer's own words
        what, hint = f"run {folder.id}: {said.message}", said.hint
    elif reason in _MEANINGS:
        what, hint = _MEANINGS[reason]
        what = f"run {folder.id} {what}"
    elif reason == "killed":
        what, hint = f"run {folder.id} was killed by somebody or something", ""
    else:
        what, hint = f"run {folder.id} failed: the trainer exited with status {code}", ""
    line = f"\n  | {word['line']}" if word.get("line") else ""
    estimate = _estimate(folder) if reason == "gpu_out_of_memory" else ""
    return reason, RunFailed(f"{what}{line}{estimate}", "\n".join(filter(None, (hint, _go_on(folder)))))


def _not_executed(folder: RunFolder) -> DimbaError:
    hint = "whom the job runs as has to be able to execute what `dimba plan` shows, where it runs"
    error = f"run {folder.id}: its job could not be started"
    return HostCannot(f"{error}{_first_line(folder)}", f"{hint}\n{_go_on(folder)}")


def _first_line(folder: RunFolder) -> str:
    """What the log says first; what srun says of it may come before."""
    try:
        text = folder.log(len(folder.record().attempts)).read_text(encoding="utf-8", errors="replace")
    except (OSError, BadInput):
        return ""
    return next((f"\n  | {line}" for line in text.splitlines() if not line.startswith("srun: ")), "")


def _estimate(folder: RunFolder) -> str:
    """What the plan had counted on, beside what was asked for."""
    try:
        memory = folder.plan()["memory"]
        if memory.get("peak") and not memory["lower_bound"]:
            return f"\n  the plan counted on {memory['total'] / _GIB:.1f} GiB, the most at {memory['peak']}"
        return f"\n  the plan counted on {memory['model_states'] / _GIB:.1f} GiB and the activations on top"
    except (TypeError, KeyError):
        return ""


def measured_memory(folder: RunFolder) -> dict[str, int]:
    """What a run's record says of GPU memory: the estimate, and the peak that its attempts measured."""
    try:
        attempts = range(1, len(folder.record().attempts) + 1)
        lines = [line for number in attempts for line in folder.metrics(number) if isinstance(line, dict)]
    except (BadInput, ValueError):  # another trainer writes what it likes
        return {}
    measured = [line["peak_memory_bytes"] for line in lines if type(line.get("peak_memory_bytes")) is int]
    planned = folder.plan().get("memory") or {}
    known = planned.get("peak") and not planned.get("lower_bound")
    estimated = {"estimated_memory_bytes": int(planned["total"])} if known else {}
    return {**estimated, "peak_memory_bytes": max(measured)} if measured else {}


def _go_on(folder: RunFolder) -> str:
    """Where to look, and from where the run can go on."""
    logs = f"`dimba logs {folder.id}` prints its log"
    try:
        newest = newest_whole(Path(folder.record().output_dir))
    except BadInput:
        newest = None
    return f"{logs}; `dimba resume {folder.id}` goes on from {newest.name}" if newest else logs
