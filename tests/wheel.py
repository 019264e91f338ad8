"""Builds the wheel of this repository and installs it into environments of its own, with packages that are here."""

import importlib.metadata
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def build_wheel(folder: Path) -> Path:
    """The wheel, built into `folder`; skips the test if the build backend is not to be had."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--disable-pip-version-check", str(REPOSITORY)]
    done = subprocess.run([*command, "-w", str(folder)], capture_output=True, text=True, check=False)
    if "No matching distribution found for hatchling" in done.stdout + done.stderr:
        pytest.skip("NO WHEEL TESTED: hatchling, the build backend, cannot be downloaded")
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("dimba-*.whl"))


@dataclass(frozen=True)
class Installed:
    """An environment with dimba's wheel."""

    folder: Path

    @property
    def package(self) -> Path:
        """The installed package."""
        return next(self.folder.glob("lib/python3*/site-packages/dimba"))

    def run(
        self, *words: str, cwd: Path, timeout: float = 300, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run its `dimba`, without this repository on the path."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [self.folder / "bin" / "dimba", *words],
            cwd=cwd,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done


def install(wheel: Path, folder: Path, *, trains: bool) -> Installed:
    """A fresh environment with the wheel and, linked from here, its dependencies; with all packages if it `trains`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    made = Installed(folder)
    place = made.package.parent
    if trains:
        # Folders that a .pth names have no .pth of theirs read, so this repository stays invisible.
        (place / "packages.pth").write_text(f"{_site()}\n", encoding="utf-8")
        return made
    for name in _dependencies("dimba", set()):
        for file in importlib.metadata.files(name) or ():
            top = file.parts[0]
            if top not in ("..", "bin", "__pycache__") and not (place / top).exists():
                (place / top).symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / top)
    return made


def _site() -> Path:
    return Path(str(importlib.metadata.distribution("docker").locate_file("")))


def _dependencies(name: str, found: set[str]) -> set[str]:
    for each in importlib.metadata.requires(name) or ():
        needed = re.match(r"[\w.-]+", each)
        if needed and "extra ==" not in each and needed[0] not in found:
            try:
                importlib.metadata.distribution(needed[0])
            except importlib.metadata.PackageNotFoundError:
                continue  # for another Python or system
            found.add(needed[0])
            _dependencies(needed[0], found)
    return found
