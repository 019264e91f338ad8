"""What a store changes in a plan: the network, a mount, the variables and the time to stop."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput
from dimba.plan.build import make_plan
from dimba.spec import JobSpec, parse_spec
from tests.plan.test_plan import FACTS, SPARSE


def spec(further: str) -> JobSpec:
    return parse_spec(f"{SPARSE}{further}\n".encode(), source="x").spec


def test_a_store_elsewhere_needs_a_network_and_is_refused_without_one():
    plan = make_plan(spec("output_store: s3://b/x"), FACTS)
    assert (plan.network, plan.environment["DIMBA_STORE"]) == ("bridge", "s3://b/x")
    assert "output_store: complete checkpoints and the model go to s3://b/x too" in plan.notes
    with pytest.raises(BadInput, match="the store is elsewhere"):
        make_plan(spec("output_store: s3://b/x\ncontainer: {network: none}"), FACTS)


def test_a_folder_as_a_store_is_mounted_unless_the_job_may_not_write_there():
    plan = make_plan(spec("output_store: file:///shelf/a"), FACTS)
    assert [each.read_only for each in plan.mounts if each.target == "/shelf/a"] == [False]
    assert Path("/shelf/a") in plan.writable
    with pytest.raises(BadInput, match="belongs to the system"):
        make_plan(spec("output_store: file:///shelf/a"), replace(FACTS, store_problem="belongs to the system"))
    with pytest.raises(BadInput, match="hide files of the image"):
        make_plan(spec("output_store: file:///opt/dimba"), FACTS)


def test_a_job_with_a_store_reads_its_record_and_has_longer_to_stop():
    plain, stored = make_plan(spec(""), FACTS), make_plan(spec("output_store: s3://b/x"), FACTS)
    assert stored.stop_seconds == plain.stop_seconds + 300
    attempt = Path("/runs/r/attempts/1")
    mounts = [(each.target, each.read_only) for each in stored.for_attempt("r", attempt).mounts[-2:]]
    assert mounts == [("/runs/r", True), (str(attempt), False)]
    assert "/runs/r" not in [each.target for each in plain.for_attempt("r", attempt).mounts]
