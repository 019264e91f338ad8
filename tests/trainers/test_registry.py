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
package = f"{registry.__package__}.{sys.argv[1]}"
print(callable(import_module(package).report), sorted({"trl", "peft"} & set(sys.modules)))
print(callable(import_module(f"{package}.train").train))
"""


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_and_reports_its_data_without_trl_and_peft(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", REPORTS, name], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True []", "True"], done.stderr
