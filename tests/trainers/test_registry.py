"""The training half of every objective."""

import subprocess
import sys

import pytest

from dimba.objectives.registry import OBJECTIVES

pytestmark = pytest.mark.slow
REPORTS = """
import sys
from importlib import import_module
from dimba.trainers.objectives import registry
assert not {"torch", "transformers"} & set(sys.modules)
packages = [f"{registry.__package__}.{name}" for name in sys.argv[1:]]
print([callable(import_module(each).report) for each in packages], sorted({"trl", "peft"} & set(sys.modules)))
print([callable(import_module(f"{each}.train").train) for each in packages])
"""


@pytest.mark.proof
def test_every_objective_trains_and_reports_its_data_without_trl_and_peft() -> None:
    done = subprocess.run([sys.executable, "-c", REPORTS, *OBJECTIVES], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{[True] * len(OBJECTIVES)} []", f"{[True] * len(OBJECTIVES)}"], done.stderr
