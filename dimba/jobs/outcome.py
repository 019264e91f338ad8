"""The outcome of a run: its status, its exit reason, and the error that its launcher raises."""

import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.checkpoints import newest_checkpoint
from dimba.common.errors import BadInput, DimbaError, HostCannot, Interrupted, RunFailed, from_json
from dimba.common.output_store import STORE_FILE, StoreState
from dimba.records import RunFolder, RunRecord
from dimba.runners.protocol import Ending

Outcome = tuple[str, str, DimbaError | None]  # status, exit reason, error to raise

_GIB = 1 << 30
_MOST_BYTES = 1 << 16  # of a learning.json, which a custom trainer may write too
_KILLED = 128 + signal.SIGKILL
_NOT_EXECUTED = (126, 127)  # the status of `env` for a program that is not executable, or does not exist
TRANSIENT = ("hung", "engine_lost", "killed", "container_missing", "node_failed")  # a retry may succeed

# Exit reason: (predicate, hint).
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
    "disk_full": ("ran out of disk", "free disk space at `output_dir` and in the run's folder"),
    "hung": ("hung: no step ended any more", "read the end of its log"),
}


class FinalError:
    """The lines of a log in which a trainer prints its error; a follower prints them once, as the run's error."""

    def __init__(self, attempt: Path) -> None:
        self._path = attempt / contract.WORD_FILE
        self._held: list[str] = []
        self._expected: list[str] = []

    def holds(self, line: str) -> bool:
        """Whether `line` is part of the trainer's error, which is printed later."""
        if line.startswith("error: "):
            self._expected = f"error: {from_json(contract.read_json_object(self._path))}".split("\n")
        if self._expected[:1] != [line]:
            return False
        self._held.append(self._expected.pop(0))
        return True

    def unreported(self, error: DimbaError | None) -> Iterable[str]:
        """The lines that were held back, if the run's error does not contain them."""
        word = from_json(contract.read_json_object(self._path))
        return () if error and word.message in error.message else self._held


def classify_outcome(ending: Ending | None, folder: RunFolder, *, stopping: bool) -> Outcome:
    """The outcome of a job with this ending; `stopping` if this user asked it to stop."""
    word = folder.last_word()
    if ending is not None and ending.reason:
        return _by_scheduler(folder, ending, stopping=stopping)
    if ending is not None and word.get("exit_code") != ending.exit_code:
        word = {}  # from another attempt, or the status is not the trainer's
    code = ending.exit_code if ending else word.get("exit_code")
    if code == 0:
        return "succeeded", "completed", None
    if code is None:
        status = ("stopped", "killed") if stopping else ("lost", "container_missing")
        return *status, RunFailed(f"run {folder.id}: its job is gone", _next_steps(folder))
    reason = str(word.get("reason") or "")
    if reason in (contract.REFUSED, contract.NO_GPU):
        return "failed", "start_failed", _refusal(folder, word)
    if code == contract.EXIT_STOPPED and not (stopping or reason) and ending and ending.engine_restarted:
        return "failed", *_engine_lost(folder)
    if stopping or reason == "time_limit" or code == contract.EXIT_STOPPED:
        return _stopped(folder, code, reason, stopping=stopping)
    return "failed", *_failed(folder, ending, word)


def may_retry(record: RunRecord, status: str, reason: str) -> bool:
    """Whether the run is retried, now that its newest attempt has ended so."""
    return status != "stopped" and reason in TRANSIENT and len(record.attempts) <= record.retries


def _by_scheduler(folder: RunFolder, ending: Ending, *, stopping: bool) -> Outcome:
    if ending.reason in ("time_limit", "cancelled"):
        return _stopped(folder, ending.exit_code, ending.reason, stopping=stopping)
    return "failed", ending.reason, RunFailed(f"run {folder.id}: a node of its job failed", _next_steps(folder))


def _refusal(folder: RunFolder, word: Mapping[str, Any]) -> DimbaError:
    if word["reason"] == contract.REFUSED:
        return from_json(word)
    hint = "run `dimba doctor`; `--allow-cpu` continues without GPUs, and `gpus: none` asks for the CPU"
    return HostCannot(f"run {folder.id}: the GPUs do not work inside", hint)


def _stopped(folder: RunFolder, code: int, reason: str, *, stopping: bool) -> Outcome:
    if reason == "time_limit":
        return "stopped", reason, RunFailed(f"run {folder.id} reached its time limit", _next_steps(folder))
    if code == _KILLED:
        late = "did not save in time, and was killed" if reason == "killed" else "was killed"
        error = Interrupted if stopping else RunFailed
        return "stopped", "killed", error(f"run {folder.id} {late}", _next_steps(folder))
    if stopping:
        return "stopped", folder.stop_reason, Interrupted(f"run {folder.id} stopped", _next_steps(folder))
    return "stopped", contract.STOPPED_BY_USER, RunFailed(f"run {folder.id} was stopped elsewhere", _next_steps(folder))


def _engine_lost(folder: RunFolder) -> tuple[str, DimbaError]:
    return "engine_lost", RunFailed(
        f"run {folder.id}: the engine was restarted, and ended its job", _next_steps(folder)
    )


def _failed(folder: RunFolder, ending: Ending | None, word: Mapping[str, Any]) -> tuple[str, DimbaError]:
    """(exit reason, error) of a job that ended without being asked to stop."""
    reason = str(word.get("reason") or "")
    if ending and ending.out_of_memory and reason in ("", "killed", "trainer_error"):
        reason = "out_of_memory"
    if not reason and ending and ending.engine_restarted:
        return _engine_lost(folder)
    code = ending.exit_code if ending else word["exit_code"]
    if not word and code in _NOT_EXECUTED:
        return "start_failed", _not_executed(folder)
    reason = reason or ("killed" if code == _KILLED else "trainer_error")
    refusal = from_json(word)
    if refusal.cause:
        what, hint = f"run {folder.id}: {refusal.message}", refusal.hint
    elif reason in _MEANINGS:
        what, hint = _MEANINGS[reason]
        what = f"run {folder.id} {what}"
    elif reason == "killed":
        what, hint = f"run {folder.id} was killed from outside", ""
    else:
        what, hint = f"run {folder.id} failed: the trainer exited with status {code}", ""
    line = f"\n  | {word['line']}" if word.get("line") else ""
    estimate = _estimate(folder) if reason == "gpu_out_of_memory" else ""
    return reason, RunFailed(f"{what}{line}{estimate}", "\n".join(filter(None, (hint, _next_steps(folder)))))


def _not_executed(folder: RunFolder) -> DimbaError:
    hint = "the job's user must be able to execute the command that `dimba plan` shows"
    error = f"run {folder.id}: its job could not be started"
    return HostCannot(f"{error}{_first_line(folder)}", f"{hint}\n{_next_steps(folder)}")


def _first_line(folder: RunFolder) -> str:
    """The first line of the log that is not srun's own."""
    try:
        text = folder.log(len(folder.record().attempts)).read_text(encoding="utf-8", errors="replace")
    except (OSError, BadInput):
        return ""
    return next((f"\n  | {line}" for line in text.splitlines() if not line.startswith("srun: ")), "")


def _estimate(folder: RunFolder) -> str:
    """The plan's estimate, for an out-of-memory error."""
    try:
        memory = folder.plan()["memory"]
        if memory.get("peak") and not memory["lower_bound"]:
            return f"\n  the plan estimated {memory['total'] / _GIB:.1f} GiB, with the peak at {memory['peak']}"
        return f"\n  the plan estimated {memory['model_states'] / _GIB:.1f} GiB without activations"
    except (TypeError, KeyError):
        return ""


def measured_memory(folder: RunFolder) -> dict[str, int]:
    """The record's fields of GPU memory in bytes: the estimate, and the peak that the attempts measured."""
    try:
        attempts = range(1, len(folder.record().attempts) + 1)
        lines = [line for number in attempts for line in folder.metrics(number) if isinstance(line, dict)]
    except (BadInput, ValueError):  # a custom trainer may write anything
        return {}
    measured = [line["peak_memory_bytes"] for line in lines if type(line.get("peak_memory_bytes")) is int]
    planned = folder.plan().get("memory") or {}
    known = planned.get("peak") and not planned.get("lower_bound")
    estimated = {"estimated_memory_bytes": int(planned["total"])} if known else {}
    return {**estimated, "peak_memory_bytes": max(measured)} if measured else {}


def proof_of_learning(folder: RunFolder) -> dict[str, Any]:
    """The record's fields on what the run learned, from the newest attempt's learning.json; empty without one."""
    try:
        path = folder.attempt(len(folder.record().attempts)) / contract.LEARNING_FILE
        found = contract.read_json_object(path) if path.stat().st_size <= _MOST_BYTES else {}
    except (OSError, BadInput):
        return {}
    learned = found.pop("learned", None)
    return {"learned": learned, "learning": found} if isinstance(learned, bool) else {}


def store_state(folder: RunFolder, record: RunRecord) -> dict[str, Any]:
    """The record's field on its store, with what the newest attempt's upload has noted; empty without a store."""
    if not record.store:
        return {}
    noted = contract.read_json_object(folder.attempt(len(record.attempts)) / STORE_FILE)
    found = StoreState.from_json(noted).as_json() if noted.get("address") else {}
    return {"store": {**record.store, **found}}


def _next_steps(folder: RunFolder) -> str:
    """The commands that print the log, resume the run and show what it measured."""
    logs = f"`dimba logs {folder.id}` prints its log"
    try:
        newest = newest_checkpoint(Path(folder.record().output_dir))
    except BadInput:
        newest = None
    resume = f"{logs}; `dimba resume {folder.id}` continues from {newest.name}" if newest else logs
    metrics = [path for path in folder.path.glob(f"attempts/*/{contract.METRICS_FILE}") if path.stat().st_size]
    return f"{resume}; `dimba report {folder.id} --open` shows its curves" if metrics else resume
