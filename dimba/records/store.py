"""Run folders: made whole, owned by the job's user, written so that a reader never sees half a file."""

import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dimba.common.contract import EXIT_FILE, LOG_FILE, METRICS_FILE, PLAN_FILE, RUN_FILE, SPEC_FILE, json_object
from dimba.common.errors import BadInput, HostCannot
from dimba.records.record import RunRecord

_STOP = "stop"


@dataclass(frozen=True)
class RunFolder:
    """`runs/<run-id>/`; files in it belong to `uid` and `gid`."""

    path: Path
    uid: int
    gid: int

    @property
    def id(self) -> str:
        """The run's id is its folder's name."""
        return self.path.name

    def attempt(self, number: int) -> Path:
        """The folder of one attempt."""
        return self.path / "attempts" / str(number)

    def log(self, number: int) -> Path:
        """The log of one attempt."""
        return self.attempt(number) / LOG_FILE

    def metrics(self, number: int) -> list[dict[str, Any]]:
        """Whole lines of the attempt's metrics.jsonl so far."""
        try:
            text = (self.attempt(number) / METRICS_FILE).read_text(encoding="utf-8")
        except OSError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def last_word(self) -> dict[str, Any]:
        """What the entry point of the last attempt left: `exit_code`, `reason` and more."""
        try:
            newest = max(self.path.glob("attempts/*"), key=lambda path: int(path.name))
        except ValueError:  # there is none
            return {}
        return json_object(newest / EXIT_FILE)

    def record(self) -> RunRecord:
        """The run's record; raises BadInput where it cannot be read."""
        try:
            return RunRecord.from_json(json.loads((self.path / RUN_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            hint = "remove that folder if the run is of no more use"
            raise BadInput(f"{self.path / RUN_FILE}: not a run record ({error})", hint) from None

    def plan(self) -> dict[str, Any]:
        """The plan of the newest attempt, as it was written; empty where there is none."""
        return json_object(self.path / PLAN_FILE)

    def write_record(self, record: RunRecord) -> None:
        """Replaces run.json whole."""
        self.write_json(RUN_FILE, record.as_json())

    def write_json(self, name: str, value: Any) -> None:
        """Replaces a file of the run whole."""
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replaces a file of the run whole."""
        write_whole(self.path / name, data, self.uid, self.gid)

    def ask_to_stop(self) -> None:
        """For whoever has the run in hand before its job runs; it holds until somebody resumes the run."""
        self.touch(_STOP)

    def is_asked_to_stop(self) -> bool:
        """Whether somebody wants the run not to start."""
        return (self.path / _STOP).exists()

    def forget_stop(self) -> None:
        """The run may start again."""
        (self.path / _STOP).unlink(missing_ok=True)

    def touch(self, name: str) -> None:
        """Makes a file of the run, empty where it is not there yet."""
        if not (self.path / name).exists():
            self.write_bytes(name, b"")

    def new_attempt(self) -> int:
        """Makes the next attempt's folder, with an empty log."""
        number = 1 + sum(1 for each in (self.path / "attempts").glob("*") if each.is_dir())
        make_folder(self.attempt(number), self.uid, self.gid)
        write_whole(self.log(number), b"", self.uid, self.gid)
        return number


def create_run(runs: Path, name: str, uid: int, gid: int) -> RunFolder:
    """A new run folder; its id starts with the run's name, then the time. Raises HostCannot."""
    make_folder(runs, uid, gid)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = runs / f"{name}-{stamp}-{secrets.token_hex(2)}"
    make_folder(path, uid, gid)
    return RunFolder(path, uid, gid)


def make_folder(path: Path, uid: int, gid: int) -> None:
    """Makes `path` and what is missing above it, for the job's user; raises HostCannot."""
    missing = [each for each in (path, *path.parents) if not os.path.exists(each)]
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            _give(each, uid, gid)
    except OSError as error:
        hint = "choose a folder that you may write in, or make room"
        raise HostCannot(str(error.strerror), hint, file=path) from None


def write_whole(path: Path, data: bytes, uid: int, gid: int) -> None:
    """Writes beside `path`, then renames: a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        _give(part, uid, gid)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise HostCannot(str(error.strerror), "make room, or correct the permissions", file=path) from None


def _give(path: Path, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, gid)


def all_runs(runs: Path) -> list[RunFolder]:
    """Every run on record, oldest first; whether a record can be read is not looked at."""
    found = [path.parent for path in runs.glob(f"*/{RUN_FILE}")] if runs.is_dir() else []
    folders = [RunFolder(path, path.stat().st_uid, path.stat().st_gid) for path in found]
    return sorted(folders, key=lambda folder: (_written(folder.path / SPEC_FILE), folder.id))


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def find_run(runs: Path, name: str) -> RunFolder:
    """The run with this id (or folder), else the only one whose id starts so, else the newest with this name."""
    folders = all_runs(runs)
    name = Path(name).name
    starting = [folder for folder in folders if name and folder.id.startswith(name)]
    exact = [folder for folder in starting if folder.id == name]
    named = [folder for folder in starting if folder.record().name == name]
    if found := exact or (starting if len(starting) == 1 else []) or named[-1:]:
        return found[0]
    if starting:
        raise BadInput(
            f"`{name}` is the start of {len(starting)} runs", "give more of the id; `dimba ps -a` lists them"
        )
    raise BadInput(f"no run `{name}` in {runs}", "`dimba ps -a` lists the runs of the folder that it is run in")
