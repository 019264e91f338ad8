"""Local files of tasks: which there are, what they read, and the code that they name. Nothing of them is run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.common.contract import PATH_STARTS, absolute, is_pattern
from dimba.common.errors import BadInput
from dimba.common.tasks import TRUST
from dimba.spec.foreign import ForeignYaml

_SUFFIXES = (".yaml", ".yml")
_REMOTE = "://"
_READERS = ("json", "csv", "parquet", "text", "arrow")  # of `datasets`, for local files


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """The tasks of a command line: names, and absolute paths of files; `places` are what those files read."""

    names: tuple[str, ...]
    places: tuple[Path, ...] = ()
    is_local: bool = True  # whether all that they read is on this machine


def find_task_files(given: Sequence[str], *, trusts_code: bool) -> TaskFiles:
    """The tasks that a command line names; raises BadInput for a file that is missing or names code without trust."""
    names = [each for name in given for each in (_files(name) if _is_file(name) else [name])]
    if twice := next((each for at, each in enumerate(names) if each in names[:at]), None):
        raise BadInput(f"the task `{twice}` is named twice", "name each task once")
    files = [_read(Path(each), trusts_code) for each in names if each.startswith("/")]
    return TaskFiles(
        names=tuple(names),
        places=tuple(dict.fromkeys(place for file in files for place in file.places)),
        is_local=len(files) == len(names) and all(each.is_local for each in files),
    )


def _is_file(name: str) -> bool:
    return name.startswith(PATH_STARTS) or name.endswith(_SUFFIXES) or "/" in name or Path(name).exists()


def _files(name: str) -> list[str]:
    """The task files at a path: that file, or those of a folder, whose other YAML files are left alone."""
    place = absolute(name)
    if not place.exists():
        raise BadInput(f"{place} does not exist", "give a task file, a folder of task files, or the name of a task")
    if place.is_file():
        return [str(place)]
    files = [each for each in sorted(place.iterdir()) if each.suffix in _SUFFIXES]
    found = [str(each) for each in files if _task_of(ForeignYaml.read(each).value)]  # one that is broken is no other's
    if not found:
        raise BadInput(f"{place} has no task file", "give a folder with YAML files that have a key `task`")
    return found


def _read(file: Path, trusts_code: bool) -> TaskFiles:
    """What a file, those that it includes and, of a group, its tasks read."""
    settings, read = _with_included(file, ())
    tags = [(each, *tag) for each in read for tag in each.tags]
    if tags and not trusts_code:
        place, line, tag, text = tags[0]
        problem = f"names Python code, `{tag} {text}`, which could do anything where the models run"
        raise BadInput(problem, f"read that code; if you trust it, use `{TRUST}`", file=place.file, line=line)
    if not isinstance(settings.get("task"), str | list):
        raise BadInput("is no task file: it has no key `task`", "give a task file of lm-eval", file=file)
    if "group" in settings:
        return _read_group(file, settings["task"], trusts_code)
    source = str(settings.get("dataset_path") or "")
    named = [*([source] if source.startswith(PATH_STARTS) else []), *_data_files(settings.get("dataset_kwargs"))]
    remote = [each for each in named if _REMOTE in each]
    own = [each.file for each in read] + ([file.parent] if tags else [])  # its code is in the folder
    return TaskFiles(
        names=(file.name,),
        places=(*own, *_existing(file, [each for each in named if each not in remote])),
        is_local=not remote and (source in _READERS or source.startswith(PATH_STARTS)),
    )


def _read_group(file: Path, members: Any, trusts_code: bool) -> TaskFiles:
    """The files of a group's tasks beside it; its other tasks are lm-eval's own."""
    beside = {_task_in(each): each for each in sorted(file.parent.glob("*.yaml")) if each != file}
    names = [each.get("task") if isinstance(each, dict) else each for each in members]
    found = [_read(beside[name], trusts_code) for name in names if isinstance(name, str) and name in beside]
    places = (file, *(place for each in found for place in each.places))
    is_local = len(found) == len(names) and all(each.is_local for each in found)
    return TaskFiles(names=(file.name,), places=places, is_local=is_local)


def _task_in(file: Path) -> str | None:
    """The name of the task in a file; None for a file of something else."""
    try:
        return _task_of(ForeignYaml.read(file).value)
    except BadInput:
        return None


def _task_of(value: Any) -> str | None:
    name = value.get("task") if isinstance(value, dict) and "group" not in value else None
    return name if isinstance(name, str) else None


def _with_included(file: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], list[ForeignYaml]]:
    """The settings of a file over those that it includes, and all of these files."""
    read = ForeignYaml.read(file)
    if not isinstance(read.value, dict):
        raise BadInput("is no task file: it has no keys", "give a task file of lm-eval", file=file)
    merged, files = dict[str, Any](), [read]
    included = read.value.get("include") or []
    for name in included if isinstance(included, list) else [included]:
        other = absolute(str(name), file.parent)
        if other in above or not other.is_file():
            problem = f"includes {name}, which {'includes it' if other in above else 'does not exist'}"
            raise BadInput(problem, "correct `include`", file=file, line=read.lines.get("include"))
        values, more = _with_included(other, (*above, file))
        merged.update(values)
        files += more
    return {**merged, **read.value}, files


def _data_files(settings: Any) -> Iterator[str]:
    """The paths in `data_files` (a text, a list, or either by split) and `data_dir`."""
    given = settings if isinstance(settings, dict) else {}
    for value in (given.get("data_files"), given.get("data_dir")):
        for each in value.values() if isinstance(value, dict) else [value]:
            yield from (str(one) for one in (each if isinstance(each, list) else [each]) if one)


def _existing(file: Path, names: Sequence[str]) -> Iterator[Path]:
    """The files, or the folder of a pattern, by paths from the place of the task file; raises BadInput."""
    for name in names:
        place = _before_pattern(absolute(name, file.parent))
        if not place.exists():
            raise BadInput(f"reads {name}, which does not exist", "paths are from the place of the file", file=file)
        yield place


def _before_pattern(place: Path) -> Path:
    first = next((at for at, part in enumerate(place.parts) if is_pattern(part)), None)
    return place if first is None else Path(*place.parts[:first])
