"""A base whose model type the transformers of the job does not know."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.releases import library_type
from dimba.host.facts import HostFacts, ImageFacts
from tests.plan.test_plan import FACTS, plan, refusal

FOREIGN = ImageFacts(reference="mine:1", key=None, base=None, base_digest=None, id="sha256:2")


def with_type(name: str, **changes: Any) -> HostFacts:
    return replace(FACTS, checkpoint=replace(FACTS.checkpoint, library_type=library_type(name)), **changes)


def test_a_model_type_that_the_image_does_not_know_is_refused_before_the_start():
    found = refusal("", with_type("exaone"))
    assert found.exit_status == 2
    assert "transformers 5.23.0 of the image does not know; 5.24.0 is the first" in str(found)
    assert "container.pins: latest" in found.hint
    plan("", with_type("llama"))


def test_without_an_image_the_release_that_is_installed_here_decides():
    here = {"image": None, "transformers": "4.57.1", "pip_install": "python -m pip install"}
    found = refusal("runner: process", with_type("exaone", **here))
    assert "transformers 4.57.1 installed here does not know" in str(found)
    assert "`python -m pip install 'transformers>=5.24.0'`" in found.hint
    plan("runner: process", with_type("exaone", **{**here, "transformers": "99.0.0"}))
    plan("runner: process", with_type("exaone", **{**here, "transformers": ""}))


def test_a_model_type_is_a_note_where_the_release_is_unknown_or_the_trainer_is_custom():
    assert any("has `model_type: exaone`" in note for note in plan("", with_type("exaone", image=FOREIGN)).notes)
    custom = with_type("exaone", trainer=replace(FACTS.trainer, path=Path("/work/mine.py"), in_image=None))
    assert any("has `model_type: exaone`" in note for note in plan("", custom).notes)
    assert not any("model_type" in note for note in plan("", with_type("llama", image=FOREIGN)).notes)
