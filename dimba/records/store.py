"""Run folders, owned by the job's user; their files are replaced atomically, so readers never see half of one."""

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dimba.common.contract import (
    EXIT_FILE,
    LOG_FILE,
    METRICS_FILE,
    PLAN_FILE,
    RUN_FILE,
    SPEC_FILE,
    STOPPED_BY_USER,
    read_json_object,
)
from dimba.common.errors import BadInput, HostCannot
from dimba.records.record import RunRecord

_STOP = "stop"


@dataclass(frozen=True)
class RunFolder:
    """The folder `runs/<run-id>/`; its files belong to `uid` and `gid`."""

    path: Path
    uid: int
    gid: int

    @property
    def id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.path.name

    def attempt(self, number: int) -> Path:
        """The folder of one attempt."""
        return self.path / "attempts" / str(number)

    def log(self, number: int) -> Path:
        """The log of one attempt."""
        return self.attempt(number) / LOG_FILE

    def metrics(self, number: int) -> list[dict[str, Any]]:
        """The complete lines of an attempt's metrics.jsonl so far."""
        try:
            text = (self.attempt(number) / METRICS_FILE).read_text(encoding="utf-8")
        except OSError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def last_word(self) -> dict[str, Any]:
        """How the last attempt ended, as its entry point wrote it: `exit_code`, `reason` and more."""
        try:
            newest = max(self.path.glob("attempts/*"), key=lambda path: int(path.name))
        except ValueError:  # there is none
            return {}
        return read_json_object(newest / EXIT_FILE)

    def record(self) -> RunRecord:
        """The run's record; raises BadInput if it is unreadable."""
        try:
            return RunRecord.from_json(json.loads((self.path / RUN_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            hint = f"remove {self.path}, if the run is not needed"
            raise BadInput(f"not a run record ({error})", hint, file=self.path / RUN_FILE) from None

    def plan(self) -> dict[str, Any]:
        """The plan of the newest attempt, as written; empty if there is none."""
        return read_json_object(self.path / PLAN_FILE)

    def write_record(self, record: RunRecord) -> None:
        """Replaces run.json."""
        self.write_json(RUN_FILE, record.as_json())

    def write_json(self, name: str, value: Any) -> None:
        """Replaces a file of the run."""
        self.write_bytes(name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replaces a file of the run."""
        write_atomically(self.path / name, data, self.uid, self.gid)

    def request_stop(self, reason: str = STOPPED_BY_USER) -> None:
        """Asks the process that starts the run to stop; the request holds until the run is resumed."""
        self.write_bytes(_STOP, reason.encode())

    @property
    def stop_reason(self) -> str:
        """The exit reason of a run that was asked to stop."""
        try:
            return (self.path / _STOP).read_text(encoding="utf-8") or STOPPED_BY_USER
        except (OSError, ValueError):
            return STOPPED_BY_USER

    def has_stop_request(self) -> bool:
        """Whether a user asked for the run not to start."""
        return (self.path / _STOP).exists()

    def clear_stop_request(self) -> None:
        """Removes the request to stop, so that the run may start again."""
        (self.path / _STOP).unlink(missing_ok=True)

    def touch(self, name: str) -> None:
        """Makes an empty file of the run, unless it exists."""
        if not (self.path / name).exists():
            self.write_bytes(name, b"")

    def new_attempt(self) -> int:
        """Makes the folder of the next attempt, with an empty log; returns its number."""
        number = 1 + sum(1 for each in (self.path / "attempts").glob("*") if each.is_dir())
        make_folder(self.attempt(number), self.uid, self.gid)
        write_atomically(self.log(number), b"", self.uid, self.gid)
        return number


def new_run_id(name: str) -> str:
    """An id for a run: its name and the time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{name}-{stamp}-{secrets.token_hex(2)}"


def create_run(runs: Path, run_id: str, uid: int, gid: int) -> RunFolder:
    """Makes a run folder; raises HostCannot."""
    make_folder(runs, uid, gid)
    path = runs / run_id
    make_folder(path, uid, gid)
    return RunFolder(path, uid, gid)


def make_folder(path: Path, uid: int, gid: int) -> None:
    """Makes `path` and its missing parents for the job's user; raises HostCannot."""
    missing = [each for each in (path, *path.parents) if not os.path.exists(each)]
    try:
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            _give(each, uid, gid)
    except OSError as error:
        hint = "choose a folder that you may write in, or make room"
        raise HostCannot(str(error.strerror), hint, file=path) from None


def write_atomically(path: Path, data: bytes, uid: int, gid: int) -> None:
    """Writes a file beside `path`, then renames it: readers see the old content or the new; raises HostCannot."""
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
    """Every run on record, oldest first, with a readable record or not."""
    found = [path.parent for path in runs.glob(f"*/{RUN_FILE}")] if runs.is_dir() else []
    folders = [RunFolder(path, path.stat().st_uid, path.stat().st_gid) for path in found]
    return sorted(folders, key=lambda folder: (_written(folder.path / SPEC_FILE), folder.id))


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def newest_named(folders: Sequence[RunFolder], name: str) -> RunFolder | None:
    """The last of the runs with a readable record of this name."""
    return next((each for each in reversed(folders) if (found := _readable(each)) and found.name == name), None)


def _sweep_of(folders: Sequence[RunFolder]) -> str | None:
    """The id of the sweep that all of the runs belong to."""
    groups = {found.group if (found := _readable(each)) else None for each in folders}
    return groups.pop() if len(groups) == 1 else None


def _readable(folder: RunFolder) -> RunRecord | None:
    try:
        return folder.record()
    except BadInput:
        return None


def find_run(runs: Path, name: str) -> RunFolder:
    """The run with this id (or folder), else the only one whose id starts with it, else the newest of this name.

    Raises:
        BadInput: there is none, several ids start with it, or it means a sweep, of which no run is the usual one.
    """
    folders = all_runs(runs)
    name = Path(name).name
    starting = [folder for folder in folders if name and folder.id.startswith(name)]
    exact = [folder for folder in starting if folder.id == name]
    if found := exact or (starting if len(starting) == 1 else []):
        return found[0]
    named = newest_named(starting, name)
    if sweep := _sweep_of([named] if named else starting):
        hint = f"`dimba ps --group {sweep}` lists its runs, the best first: name one, such as {sweep}-1"
        raise BadInput(f"`{name}` is a sweep, and one run is needed", hint)
    if named:
        return named
    if starting:
        raise BadInput(
            f"`{name}` is the start of {len(starting)} run ids", "give more of the id; `dimba ps -a` lists them"
        )
    raise BadInput(f"no run `{name}` in {runs}", "`dimba ps -a` lists the runs of the current folder")
