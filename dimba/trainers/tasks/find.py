"""The tasks that a request names: lm-eval's own, and those of local files."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from lm_eval.api.group import Group
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml
from yaml import YAMLError

from dimba.common.errors import BadInput, DimbaError, HostCannot, Location, kind_and_line
from dimba.common.tasks import NamedTasks, TaskRequest
from dimba.trainers.tasks.guards import guard, require_metrics, require_safe

_SEEDS = (0, 1234)  # lm-eval's: Python's, and NumPy's with that of the examples
_TYPES = ("loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until")
_UNREACHABLE = (ConnectionError, TimeoutError)
_NOT_SHOWN = ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError")  # of `datasets` and the Hub's client
_RESTORE = "restore the network, or name a task whose data are files of this machine"


@dataclass(frozen=True)
class FoundTasks:
    """The tasks by their names, and what each name of the request stands for."""

    tasks: Mapping[str, Any]
    named: tuple[NamedTasks, ...]


def find_tasks(request: TaskRequest) -> FoundTasks:
    """Loads the tasks of a request with their data; raises DimbaError for what cannot be run here as it is asked."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    guard(trusts_code=request.trusts_code)
    files = {name: _read(Path(name)) for name in request.names if _is_file(name)}
    own = {name: _name_in(Path(name), each) for name, each in files.items()}
    for name, each in files.items():
        _require_metrics(name, each, request)
    if twice := next((each for each in own.values() if list(own.values()).count(each) > 1), None):
        raise BadInput(f"two tasks are named `{twice}`", "name them differently in their files")
    groups = [Path(name) for name, each in files.items() if "group" in each]
    manager = TaskManager(include_defaults=bool(groups) or len(files) < len(request.names))
    manager.task_index.update(_tasks_in(each for group in groups for each in sorted(group.parent.glob("*.yaml"))))
    manager.task_index.update(_tasks_in(map(Path, files)))
    _require_known([each for each in request.names if each not in files], manager)
    tasks: dict[str, Any] = {}
    named = []
    for name in request.names:
        loaded = _load(name, own.get(name, name), manager)
        for each, task in loaded["tasks"].items():
            _require_runnable(task, each, request)
            tasks.setdefault(each, task)
        named.append(_named(name, loaded))
    return FoundTasks(tasks, tuple(named))


def _is_file(name: str) -> bool:
    return Path(name).is_absolute()


def _read(file: Path) -> dict[str, Any]:
    try:
        return load_yaml(file, resolve_func=False)
    except (ValueError, OSError, YAMLError) as error:
        raise BadInput(f"is no task file: {kind_and_line(error)}", "correct it", file=file) from None


def _name_in(file: Path, value: Mapping[str, Any]) -> str:
    name = value.get("group") or value.get("task")
    if not isinstance(name, str):
        raise BadInput("is no task file: it names neither a `task` nor a `group`", "correct it", file=file)
    return name


def _require_metrics(file: str, value: Mapping[str, Any], request: TaskRequest) -> None:
    try:
        require_metrics(value, trusts_code=request.trusts_code)
    except BadInput as error:
        raise error.at(Location(file)) from None


def _tasks_in(files: Iterable[Path]) -> dict[str, Any]:
    """The tasks and groups of files by their names; files of other tools have none."""
    found: dict[str, Any] = {}
    for file in files:
        with suppress(BadInput, ValueError):
            TaskIndex.process_cfg(_read(file), file, found)
    return found


def _require_known(names: Sequence[str], manager: Any) -> None:
    for name in (each for each in names if each not in manager.task_index):
        near = ", ".join(f"`{each}`" for each in get_close_matches(name, manager.all_tasks, 3, 0.6))
        hint = f"name one that exists, such as {near or '`arc_easy`'}; a file starts with `./`"
        raise BadInput(f"lm-eval has no task `{name}`", hint)


def _load(given: str, name: str, manager: Any) -> Any:
    place = Path(given).parent if _is_file(given) else Path.cwd()
    try:
        with chdir(place):  # the data of a local task are named from the place of its file
            return manager.load([name])
    except DimbaError:
        raise
    except Exception as error:  # whatever a task file or its data may cause
        raise _not_loaded(name, error).at(Location(given if _is_file(given) else "")) from None


def _not_loaded(name: str, error: Exception) -> DimbaError:
    chain = [error, *filter(None, (error.__cause__, error.__context__))]
    if any(isinstance(each, _UNREACHABLE) or "Offline" in type(each).__name__ for each in chain):
        return HostCannot(f"the data of the task `{name}` cannot be fetched: {kind_and_line(error)}", _RESTORE)
    if any(type(each).__name__ in _NOT_SHOWN for each in chain):
        hint = "correct its name; for private or gated data name `HF_TOKEN` in `container.env` of the run's spec"
        return BadInput(f"the data of the task `{name}` cannot be fetched: {kind_and_line(error)}", hint)
    if isinstance(error, ImportError):
        return BadInput(f"the task `{name}` needs a package that is not there: {kind_and_line(error)}", "name another")
    return BadInput(f"the task `{name}` cannot be loaded: {kind_and_line(error)}", "correct it, or name another task")


def _require_runnable(task: Any, name: str, request: TaskRequest) -> None:
    if task.OUTPUT_TYPE not in _TYPES or getattr(task, "MULTIMODAL", False):
        kind = "images or sound" if getattr(task, "MULTIMODAL", False) else f"`output_type: {task.OUTPUT_TYPE}`"
        raise BadInput(f"the task `{name}` needs {kind}, and these models read and write text", "name another task")
    require_safe(task, name, trusts_code=request.trusts_code)


def _named(name: str, loaded: Any) -> NamedTasks:
    """What a name stands for; the group's own setting says how its figure is made."""
    label = Path(name).stem if _is_file(name) else name
    group = next(iter(loaded["groups"].values()), None)  # the outermost one
    return NamedTasks(name=_label(label, loaded, group), tasks=tuple(loaded["tasks"]), by_size=_by_size(group))


def _label(name: str, loaded: Any, group: Group | None) -> str:
    if group is not None:
        return str(group.name)
    return next(iter(loaded["tasks"])) if len(loaded["tasks"]) == 1 else name


def _by_size(group: Group | None) -> bool:
    lists = getattr(group, "aggregate_metric_list", None) or [] if group is not None else []
    return all(getattr(each, "weight_by_size", True) for each in lists)


def configure(task: Any, request: TaskRequest) -> None:
    """Sets the examples in front of each document, and the seeds by which they are drawn, as lm-eval does."""
    random.seed(_SEEDS[0])
    np.random.seed(_SEEDS[1])  # what tasks use
    own = task.get_config("num_fewshot")
    if request.fewshot is not None and own != 0:  # a task with 0 of its own has none to show
        task.set_config(key="num_fewshot", value=request.fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_SEEDS[1])
