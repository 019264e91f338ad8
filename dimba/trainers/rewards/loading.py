"""Users' reward functions, imported from their files."""

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
    """The function of that name; raises BadInput with the file and line if there is none or its file fails."""
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        hint = "a relative path starts in the folder in which the command is run"
        raise BadInput(f"the reward's file {path} does not exist", hint)
    module = _import(path)
    found = getattr(module, function, None)
    if found is None:
        raise BadInput(f"{path} has no function `{function}`", _nearest(function, module))
    if isinstance(found, type):
        raise BadInput(f"`{function}` in {path} is a class, not an instance of it", "name a function or an instance")
    if not callable(found):
        kind = type(found).__name__
        raise BadInput(f"`{function}` in {path} is of type {kind} and cannot be called", "name a function")
    return found


def line_in(path: Path | str, error: BaseException) -> int | None:
    """The last line of that file that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)


def place_in(path: Path | str, error: BaseException) -> Location:
    """The file, and the line if it is known."""
    return Location(str(path), line_in(path, error))


@cache
def _import(path: Path) -> ModuleType:
    """One module for all functions of the file: they share what it loads and counts."""
    if str(path.parent) not in sys.path:  # as for a script: the file can import its neighbours
        sys.path.insert(0, str(path.parent))
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]  # files of two folders may have the same name
    spec = importlib.util.spec_from_file_location(f"dimba_reward_{path.stem}_{digest}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _import_error(path, error) from error
    return module


def _import_error(path: Path, error: BaseException) -> BadInput:
    place = place_in(path, error)
    if isinstance(error, SyntaxError):
        return BadInput(f"no valid Python: {error.msg}", "correct the file of the reward").at(place)
    if isinstance(error, ModuleNotFoundError):
        return BadInput(
            f"imports `{error.name}`, which is not installed where the trainer runs",
            f"add `{error.name}` to the trainer's environment, in a container to its image; "
            f"mount the reward's folder if it is a file of yours there: `container.mounts: [{path.parent}]`",
        ).at(place)
    hint = "correct the file of the reward: importing it fails"
    return BadInput(f"{type(error).__name__}: {error}", hint).at(place)


def _nearest(name: str, module: ModuleType) -> str:
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = difflib.get_close_matches(name, functions, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"there are {', '.join(functions)}" if functions else "define it in the file"
