"""A reward function of the user's own, out of its file."""

import difflib
import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dimba.common.errors import BadInput, Location

Function = Callable[..., Any]


def load_function(file: str, function: str) -> Function:
    """The function of that name; every way this can fail is a refusal with the file and line."""
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise BadInput(f"the reward's file {path} does not exist", "a relative path starts where the command is run")
    module = _module(path)
    found = getattr(module, function, None)
    if found is None:
        raise BadInput(f"{path} has no function `{function}`", _near(function, module))
    if not callable(found) or isinstance(found, type):
        what = "a class, not an instance of it" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise BadInput(
            f"`{function}` in {path} is {what}; a reward is called", "name a function, or an object that can be called"
        )
    return found


def line_in(path: Path | str, error: BaseException) -> int | None:
    """The last line of that file that the error came through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)


def place_in(path: Path | str, error: BaseException) -> Location:
    """The file, and the line if it is known."""
    return Location(str(path), line_in(path, error))


@cache
def _module(path: Path) -> ModuleType:
    """One for all functions of the file: what it loads is loaded once, and what it counts is counted together."""
    # As the script's own folder would be: what lies beside the file can be imported.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]  # as files of two folders may have the same name
    spec = importlib.util.spec_from_file_location(f"dimba_reward_{path.stem}_{digest}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _refusal(path, error) from error
    return module


def _refusal(path: Path, error: BaseException) -> BadInput:
    place = place_in(path, error)
    if isinstance(error, SyntaxError):
        return BadInput(f"no valid Python: {error.msg}", "correct the file of the reward").at(place)
    if isinstance(error, ModuleNotFoundError):
        return BadInput(
            f"imports `{error.name}`, which is not installed where the trainer runs",
            f"the reward runs beside the trainer: in a container, `{error.name}` has to be in its image; "
            f"a file of yours that lies beside it has to be mounted: `container.mounts: [{path.parent}]`",
        ).at(place)
    hint = "correct the file of the reward; it fails when loaded"
    return BadInput(f"{type(error).__name__}: {error}", hint).at(place)


def _near(name: str, module: ModuleType) -> str:
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"there are {', '.join(own)}" if own else "define it in the file"
