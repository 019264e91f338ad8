"""The scheduler's commands, and what they say of a job."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dimba.common.errors import EngineFailed, HostCannot

COMMANDS = ("sbatch", "scontrol", "squeue", "scancel")
_ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
_FIELD = re.compile(r"(?<!\S)(JobState|Reason|ExitCode|RunTime|StdOut)=(\S*)")
_UNKNOWN = "Invalid job id"
_SECONDS = 60


@dataclass(frozen=True)
class Standing:
    """What the scheduler says of a job."""

    state: str
    reason: str
    exit_code: int  # 128 + n after signal n
    has_run: bool
    log: Path

    @property
    def ended(self) -> bool:
        """Whether it is over, and not started again."""
        return self.state in _ENDED

    @property
    def waits(self) -> bool:
        """Whether it does not run yet, or not again yet."""
        return self.state in _WAITING


def standing(number: str) -> Standing | None:
    """What is said of the job with this number; None once it is forgotten. Raises EngineFailed."""
    done = _run(["scontrol", "--oneliner", "show", "job", number])
    if _UNKNOWN in done.stderr:
        return None
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(_answer(done)):
        fields.setdefault(name, value)
    code, _, signum = fields.get("ExitCode", "0:0").partition(":")
    status = 128 + int(signum) if int(signum or 0) else int(code)
    return Standing(
        state=fields.get("JobState", ""),
        reason=fields.get("Reason", ""),
        exit_code=status,
        has_run=fields.get("RunTime") != "00:00:00",
        log=Path(fields.get("StdOut", "")),
    )


def submit(script: str, environment: dict[str, str], **identity: object) -> str:
    """Hands a script over as the user of `identity`; returns the job's number. Raises HostCannot, EngineFailed."""
    done = _run(["sbatch", "--parsable"], input=script, env=environment, **identity)
    if done.returncode:
        hint = "correct `slurm` or `resources` of the spec, or your slurm.yaml; `dimba plan` prints the script"
        raise HostCannot(f"Slurm does not take the job: {_said(done)}", hint)
    return done.stdout.strip().partition(";")[0]


def cancel(number: str) -> None:
    """Takes a job out of the queue, or ends it as the cluster does."""
    _run(["scancel", number])


def signal_steps(number: str, name: str) -> None:
    """Sends a signal to what the job runs on each node, and not to its script."""
    _run(["scancel", f"--signal={name}", number])


def number_of(comment: str, task: str = "") -> str | None:
    """The number of the job that carries this comment (and is this `task` of an array), while it is in the queue.

    Raises:
        EngineFailed: Slurm does not answer.
    """
    asked = ["squeue", "--noheader", "--all", "--array", "--states=all", "--format=%i %k"]
    found = [line.split(maxsplit=1) for line in _answer(_run(asked)).splitlines()]
    ours = [each[0] for each in reversed(found) if each[1:] == [comment]]
    return next((number for number in ours if number.partition("_")[2] == task), None)


def require_commands() -> None:
    """Raises EngineFailed where this machine has no part in a cluster."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        hint = "run dimba on a login node of the cluster; `dimba plan --runner slurm` prints the script anywhere"
        raise EngineFailed(f"Slurm's commands are not on this machine: {', '.join(missing)}", hint)


def _run(argv: Sequence[str], **options: object) -> "subprocess.CompletedProcess[str]":
    require_commands()
    try:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]  # options of several types
            argv, capture_output=True, text=True, timeout=_SECONDS, check=False, **options
        )
    except subprocess.TimeoutExpired:
        raise _unanswered(f"`{argv[0]}` took longer than {_SECONDS} s") from None


def _answer(done: "subprocess.CompletedProcess[str]") -> str:
    if done.returncode:
        raise _unanswered(_said(done))
    return done.stdout


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]


def _unanswered(what: str) -> EngineFailed:
    return EngineFailed(f"Slurm does not answer: {what}", "`sinfo` and `scontrol ping` look closer")
