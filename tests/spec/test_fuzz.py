"""Every spec ends in a plan or an error, never in a crash; scripts/soak/specs.py tries more of them."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dimba.host.facts import EngineFacts
from tests.fuzz import COMPLETE, ENGINES, change, outcome, specs

CAME: Counter[str] = Counter()
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def inside(job: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(job)
    return job


@QUICK
@given(data=specs(), engine=st.sampled_from(ENGINES))
def test_every_spec_ends_in_a_plan_or_an_error(inside: Path, data: bytes, engine: EngineFacts):
    CAME[outcome(data, engine, inside)] += 1


def test_some_of_the_specs_end_in_a_plan(inside: Path):
    import json

    value = {**COMPLETE, "container": {}}
    assert outcome(json.dumps(value).encode(), ENGINES[0], inside) == "planned"
    change(value, ("container", "network"), "host")
    assert outcome(json.dumps(value).encode(), ENGINES[0], inside) == "distrusted"
    assert not CAME or len(CAME) >= 3, CAME
    assert not [path.name for path in inside.iterdir() if path.name == "x"], "nothing was touched"
