"""The pins of the image: tested, or the latest releases."""

from dataclasses import replace
from typing import Any

import pytest

from dimba.cli.plan_page import _image_line
from dimba.common.errors import BadInput
from dimba.host.build_context import BuildContext, image_key
from dimba.host.facts import HostFacts, ImageFacts
from dimba.jobs.recorded import recorded_plan
from dimba.jobs.unchanged import differences, made_with
from dimba.records import RunRecord
from dimba.spec import JobSpec, parse_spec
from tests.plan.test_model_type import FOREIGN, with_type
from tests.plan.test_plan import FACTS, SPARSE, plan, refusal

LATEST = "container: {pins: latest}"
UNBUILT = ImageFacts(reference="dimba:l", key="l", base="b", base_digest="sha256:1", id=None, pins="latest")
VERSIONS = {"torch": "2.13.0", "transformers": "5.24.0", "trl": "1.16.0"}
BUILT = replace(UNBUILT, id="sha256:3", versions=VERSIONS, resolved="2026-11-29")


def with_image(image: ImageFacts | None, **changes: Any) -> HostFacts:
    return replace(FACTS, image=image, **changes)


def spec(text: str) -> JobSpec:
    return parse_spec((SPARSE + text).encode(), source="job.yaml").spec


def test_the_latest_releases_are_announced_as_untested_before_they_are_known():
    found = plan(LATEST, with_image(UNBUILT))
    (note,) = [each for each in found.notes if each.startswith("container.pins")]
    assert "of the day on which it is built, untested with dimba" in note
    assert "untested with dimba" in _image_line(found)


def test_the_latest_releases_are_named_once_they_are_known():
    found = plan(LATEST, with_image(BUILT))
    assert any("of 2026-11-29, untested with dimba: transformers 5.24.0, trl 1.16.0" in each for each in found.notes)
    record = recorded_plan(found)
    assert (record["image_pins"], record["packages"]) == ("latest", VERSIONS)
    assert found.as_json()["image"]["versions"] == VERSIONS


def test_tested_pins_need_no_words():
    found = plan()
    assert not any("container.pins" in each for each in found.notes) and "untested" not in _image_line(found)
    assert recorded_plan(found)["image_pins"] == "tested"


def test_a_job_without_an_image_refuses_the_latest_releases():
    found = refusal(f"runner: process\n{LATEST}", with_image(None, pip_install="python -m pip install"))
    assert found.key == "container.pins" and found.exit_status == 2
    assert "`runner: docker`" in found.hint and "`python -m pip install -U transformers" in found.hint


def test_an_image_that_dimba_does_not_build_runs_as_it_is():
    assert any("mine:1 runs as it is: build it with" in each for each in plan(LATEST, with_image(FOREIGN)).notes)


def test_another_image_excludes_the_latest_releases():
    with pytest.raises(BadInput, match=r"container.pins: is of the image that dimba builds"):
        spec("container: {image: mine, pins: latest}")


def test_each_choice_of_pins_has_an_image_of_its_own():
    context = BuildContext(files={}, digest="d")
    assert image_key(context, "b", "1") == image_key(context, "b", "1", pins="tested")
    assert image_key(context, "b", "1") != image_key(context, "b", "1", pins="latest")


def test_a_newer_model_type_is_no_problem_of_the_latest_releases_unless_they_turn_out_older():
    assert not any("model_type" in each for each in plan(LATEST, with_type("exaone", image=UNBUILT)).notes)
    plan(LATEST, with_type("exaone", image=BUILT))
    older = replace(BUILT, versions={"transformers": "5.23.0"})
    assert "transformers 5.23.0 of the image does not know" in str(refusal(LATEST, with_type("exaone", image=older)))
    assert any("nor any release" in each for each in plan(LATEST, with_type("of_none", image=UNBUILT)).notes)


def test_a_run_does_not_resume_with_other_latest_releases():
    before = plan(LATEST, with_image(BUILT))
    now = made_with(before, b"spec")
    record = RunRecord(id="run-1", name="run", **{**now, **recorded_plan(before)})
    assert differences(record, {}, before, now) == []
    gone = plan(LATEST, with_image(UNBUILT))
    (found,) = differences(record, {}, gone, made_with(gone, b"spec"))
    assert found.key == "container.pins" and "is gone" in found.text
