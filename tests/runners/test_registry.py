"""One list of names: whoever offers runners, or makes them, reads it."""

import re
from pathlib import Path
from typing import get_args

import pytest

from dimba.cli import command_parser
from dimba.common.runners import AUTO, RENDERED, RUNNERS, resolve_runner
from dimba.runners.registry import find_runner, runner_of
from dimba.spec.model import RunnerName
from tests.conftest import NO_ENGINE, REPOSITORY

# The list, what makes them, and the runners themselves.
KNOW_NAMES = ("common/runners.py", "runners/")
# Slurm's own containers, and a folder of the repository.
OTHER_THINGS = ("none", "podman", "constraints.txt", "SLURM_STEP_GPUS")


def test_the_spec_and_the_command_line_offer_every_runner_of_the_list():
    assert get_args(RunnerName) == (AUTO, *RUNNERS)
    for name in (AUTO, *RUNNERS, *RENDERED):
        assert command_parser([]).parse_args(["plan", "job.yaml", "--runner", name]).runner == name


def test_no_other_file_compares_a_runners_name():
    quoted = re.compile("|".join(f'"{name}"' for name in RUNNERS))
    found = [
        f"{file.relative_to(REPOSITORY)}: {line.strip()}"
        for file in (REPOSITORY / "dimba").rglob("*.py")
        if not str(file.relative_to(REPOSITORY / "dimba")).startswith(KNOW_NAMES)
        for line in Path(file).read_text(encoding="utf-8").splitlines()
        if quoted.search(line) and not any(other in line for other in OTHER_THINGS)
    ]
    assert not found


@pytest.mark.parametrize("name", [name for name, can in RUNNERS.items() if not can.uses_engine])
def test_a_runner_is_made_by_its_name_and_says_what_the_list_says(name: str):
    runner, engine = find_runner(name)
    assert (runner.name, runner.capabilities) == (name, RUNNERS[name])
    assert not engine.reachable, "nothing of it was asked"


def test_without_an_engine_its_runner_is_away_and_auto_is_this_machine_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE["DOCKER_HOST"])
    for name in (name for name, can in RUNNERS.items() if can.uses_engine):
        assert runner_of(name) is None
    assert find_runner(AUTO).runner.name == resolve_runner(AUTO, engine_answers=False)
    assert runner_of("one of another version") is None
