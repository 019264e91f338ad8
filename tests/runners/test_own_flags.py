"""The flags of dimba's own trainers are known without starting them."""

import subprocess
import sys

import pytest

from dimba.host.help_flags import flags_in_help
from dimba.objectives.registry import OBJECTIVES
from dimba.options.param import flags_of
from dimba.runners.flags import trainer_facts
from tests.conftest import REPOSITORY
from tests.plan.test_plan import FACTS


@pytest.mark.parametrize("mode", OBJECTIVES)
def test_they_are_those_of_the_help(mode: str):
    command = [sys.executable, str(REPOSITORY / OBJECTIVES[mode].script), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert flags_in_help(shown) - {"--help"} == flags_of(OBJECTIVES[mode].options)


def test_nothing_is_started_for_them():
    def run_once(*_: object):
        raise AssertionError("a process was started")

    found = trainer_facts(FACTS, None, run_once, ask=True)
    assert "--base-checkpoint" in found.flags and found.flags_from == "--help"
