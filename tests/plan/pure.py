"""A disk that nothing may be read from: under it, a plan is made of facts alone."""

import builtins
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

_READS = (
    *((os, name) for name in ("stat", "lstat", "access", "open", "listdir", "scandir", "readlink", "walk", "getcwd")),
    *((os.path, name) for name in ("realpath", "exists", "lexists", "isfile", "isdir", "islink")),
    (builtins, "open"),
    (io, "open"),
)


def _refused(*args: Any, **_options: Any) -> NoReturn:
    raise AssertionError(f"the disk was looked at: {args}")


@contextmanager
def no_disk() -> Iterator[None]:
    """Every look at the disk within fails the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGUAGE", "C")  # argparse looks for translations of what it says
        for owner, name in _READS:
            patch.setattr(owner, name, _refused)
        yield
