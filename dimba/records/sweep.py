"""Sweeps on record: runs of one spec with other values, in a folder beside those of its runs."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dimba.common.contract import RUN_FILE, SWEEP_FILE
from dimba.common.errors import BadInput
from dimba.records.store import RunFolder, all_runs, newest_named


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """A run of a sweep: its id, and its value of each swept key as YAML."""

    id: str
    values: tuple[str, ...]
    by_best: bool = False  # it saves its best model, so the best value of the metric counts rather than the last one


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """sweep.json as a value; its runs have records of their own."""

    id: str
    name: str = ""
    keys: tuple[str, ...] = ()
    runs: tuple[SweepRun, ...] = ()
    combinations: int = 0  # of the whole grid
    draw_seed: int | None = None  # of the draw, if not every combination runs
    at_once: int = 1  # runs that may run at the same time; 0: as the scheduler decides
    ahead: int = 0  # further runs that queue for GPUs, prepared
    scheduled: bool = False  # its runs are the tasks of a scheduler's array
    stop_worst: bool = False
    metric: str = ""
    command: tuple[str, ...] = ()
    created: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The shortest names of the keys that tell them apart."""
        return short_names(self.keys)

    def label(self, run: SweepRun) -> str:
        """The values of a run with their names: `learning_rate=1e-4, r=8`."""
        return ", ".join(f"{name}={value}" for name, value in zip(self.names, run.values, strict=False))

    def as_json(self) -> dict[str, Any]:
        """The content of sweep.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SweepRecord":
        """Reads the record of any version; ignores unknown keys. Raises KeyError, TypeError for a broken one."""
        known = {each.name: value[each.name] for each in fields(cls) if each.name in value}
        runs = tuple(_run(each) for each in known["runs"])
        return cls(**{**known, "keys": tuple(known["keys"]), "command": tuple(known.get("command", ())), "runs": runs})


def _run(value: dict[str, Any]) -> SweepRun:
    by_best = bool(value.get("by_best", False))
    return SweepRun(id=str(value["id"]), values=tuple(map(str, value["values"])), by_best=by_best)


def short_names(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The ends of dotted keys that tell them apart: `r` for `lora.r` alone."""
    return tuple(_short(key, [other for other in keys if other != key]) for key in keys)


def _short(key: str, others: list[str]) -> str:
    parts = key.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), key)


def sweep_of(folder: RunFolder) -> SweepRecord:
    """The record of a sweep; raises BadInput if it is unreadable."""
    path = folder.path / SWEEP_FILE
    try:
        return SweepRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"not a record of a sweep ({error})", f"remove {folder.path}", file=path) from None


def run_folders(folder: RunFolder, sweep: SweepRecord) -> list[RunFolder]:
    """The folders of its runs that are on record, in their order."""
    found = (RunFolder(folder.path.parent / run.id, folder.uid, folder.gid) for run in sweep.runs)
    return [each for each in found if (each.path / RUN_FILE).exists()]


def sweep_folder(runs: Path, sweep_id: str) -> RunFolder | None:
    """The folder of a sweep by its id; None without its record."""
    path = runs / Path(sweep_id).name
    if not (path / SWEEP_FILE).is_file():
        return None
    return RunFolder(path, path.stat().st_uid, path.stat().st_gid)


def all_sweeps(runs: Path) -> list[RunFolder]:
    """Every sweep on record, oldest first."""
    found = sorted(runs.glob(f"*/{SWEEP_FILE}"), key=lambda path: path.stat().st_mtime_ns)
    return [RunFolder(path.parent, path.stat().st_uid, path.stat().st_gid) for path in found]


def find_sweep(runs: Path, name: str) -> RunFolder | None:
    """The sweep with this id; the only one whose id starts so where no run outside of it does; that of the newest run
    of this name. None without one.
    """
    name = Path(name).name
    sweeps = [each for each in all_sweeps(runs) if name and each.id.startswith(name)]
    if exact := [each for each in sweeps if each.id == name]:
        return exact[0]
    starting = [each for each in all_runs(runs) if sweeps and each.id.startswith(name)]
    if len(sweeps) == 1 and all(each.id.startswith(f"{sweeps[0].id}-") for each in starting):
        return sweeps[0]
    newest = newest_named(starting, name)
    group = newest.record().group if newest else None
    return sweep_folder(runs, group) if group else None


def find_group(runs: Path, name: str) -> RunFolder:
    """The sweep with this id, or the only one whose id starts so, or the newest of this name; the newest for "".

    Raises:
        BadInput: there is none, or several ids start so.
    """
    name = Path(name).name
    found = [each for each in all_sweeps(runs) if each.id.startswith(name)]
    exact = [each for each in found if each.id == name] or [each for each in found if _name(each) == name]
    if not found:
        wanted = f"no sweep `{name}` in {runs}" if name else f"no sweep in {runs}"
        raise BadInput(wanted, "`dimba launch SPEC --sweep KEY=VALUE,VALUE` launches one")
    if name and not exact and len(found) > 1:
        ids = ", ".join(each.id for each in found[-3:])
        raise BadInput(f"`{name}` is the start of {len(found)} sweeps' ids", f"give more of the id; the newest: {ids}")
    return (exact or found)[-1]


def _name(folder: RunFolder) -> str:
    try:
        return sweep_of(folder).name
    except BadInput:
        return ""
