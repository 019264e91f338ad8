"""Finds the trainer: the spec's, else the first existing one of the usual scripts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dimba.common.contract import absolute
from dimba.host.facts import TrainerFacts
from dimba.host.places import why_not_read
from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES

SCRIPTS = tuple(each.script for each in OBJECTIVES.values())
_ANY_MODE = ("scripts/finetuning/train.py", "scripts/train.py")


def own_trainer(mode: str, project: Path) -> Path:
    """The path of dimba's own trainer for a mode, which can preview its data."""
    return project / OBJECTIVES[mode].script


def objective_of(trainer: Path | None, project: Path) -> Objective[Any] | None:
    """The objective of one of dimba's own trainers; None for a custom trainer."""
    return next((each for each in OBJECTIVES.values() if trainer == project / each.script), None)


def find_trainer(trainer: str | None, mode: str, folder: Path, project: Path) -> TrainerFacts:
    """The spec's trainer, else the mode's first script that exists in `folder` or the project."""
    names = [trainer] if trainer else _usual_names(mode)
    if found := _existing(names, mode, folder, project):
        facts = found[0][1]
        assert facts.path is not None
        if why := why_not_read(facts.path):
            hint = "give the path of a training script of your own"
            return TrainerFacts(path=None, problem=f"{facts.path} {why}", hint=hint)
        return facts
    tried = ", ".join(f"`{name}`" for name in names)
    hint = "give the path of a training script, relative to the folder that dimba is run in"
    hint += ", or leave `trainer` out for dimba's own" if trainer else ""
    return TrainerFacts(path=None, problem=f"no trainer found: {tried}", hint=hint)


def find_trainers(mode: str, folder: Path, project: Path) -> list[tuple[str, TrainerFacts]]:
    """Every usual trainer that exists, by its relative path, in the order to offer them: the other mode's last."""
    return _existing(_usual_names(mode), mode, folder, project)


def _usual_names(mode: str) -> list[str]:
    # Other modes' trainers are last, as they are launched only with a mode flag.
    return [OBJECTIVES[mode].script, *_ANY_MODE, *_other_scripts(mode)]


def _other_scripts(mode: str) -> list[str]:
    return [each.script for each in OBJECTIVES.values() if each.name != mode]


def _existing(names: Sequence[str], mode: str, folder: Path, project: Path) -> list[tuple[str, TrainerFacts]]:
    others = [Path(script).parts for script in _other_scripts(mode)]
    found = []
    for name in names:
        paths = [path for root in (folder, project) if (path := absolute(name, root)).is_file()]
        if paths:
            # A trainer of the other mode remains one even if the spec names it.
            path = _shipped(paths[0], project)
            copy = paths[0] if path != paths[0] else None
            found.append((name, TrainerFacts(path=path, copy=copy, other_mode=_ends_in(path, others))))
    return found


def _shipped(path: Path, project: Path) -> Path:
    """dimba's own trainer with the content of `path`, wherever that copy lies; `path` itself if there is none."""
    own = [project / script for script in SCRIPTS]
    return path if path in own else next((each for each in own if _have_equal_content(path, each)), path)


def _have_equal_content(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    except OSError:
        return False


def _ends_in(path: Path, endings: Sequence[tuple[str, ...]]) -> bool:
    return any(path.parts[-len(ending) :] == ending for ending in endings)
