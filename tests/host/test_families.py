"""The family of a base is seen from its config.json, and what it lacks is refused before a launch."""

import json
from pathlib import Path
from typing import Any

import pytest

from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import CheckpointFacts
from dimba.objectives.families import CAUSAL, DIMBA, DREAM, MASKED_BY_CODE, family_of
from dimba.objectives.registry import OBJECTIVES
from tests.conftest import hollow_checkpoint

MAPPED = {"AutoConfig": "m.Config", "AutoModel": "m.Model"}


def facts(folder: Path, **config: Any) -> CheckpointFacts:
    base = hollow_checkpoint(folder / "base")
    written = {**json.loads((base / "config.json").read_text()), **config}
    (base / "config.json").write_text(json.dumps(written))
    return look_at_checkpoint(str(base), folder)


@pytest.mark.parametrize(
    ("model_type", "family"),
    [("dimba", DIMBA), ("llada", MASKED_BY_CODE), ("Dream", DREAM), ("llama", CAUSAL), ("", CAUSAL), (None, CAUSAL)],
)
def test_the_family_is_seen_from_the_model_type(model_type: Any, family: Any):
    assert family_of({"model_type": model_type}) is family


def test_masked_diffusion_by_a_checkpoints_code_is_no_longer_taken_for_causal(tmp_path: Path):
    found = facts(tmp_path, model_type="llada", architectures=["LLaDAModelLM"], auto_map=MAPPED, mask_token_id=5)
    assert found.family is MASKED_BY_CODE and found.refusal is None and found.lifted is None and found.own_code
    assert not any(map(found.family.refuses, ("sft", "dpo", "grpo")))


def test_a_checkpoint_without_its_code_or_its_mask_token_is_refused(tmp_path: Path):
    found = facts(tmp_path, model_type="Dream", architectures=["DreamModel"])
    assert found.refusal and "without its code: `auto_map` in config.json has no AutoModel" in found.refusal.problem
    assert found.lifted and found.lifted.by.name == "mask-token"
    assert "names no mask token: config.json has no `mask_token_id`" in found.lifted.refusal.problem


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (300, "has `mask_token_id: 300` in config.json, which is no token of 300"),
        (-1, "which is no token of 300"),
        ([1], "has `mask_token_id: [1]` in config.json, which is no token"),
        (True, "has `mask_token_id: true` in config.json, which is no token"),
        (2, "which is its `eos_token_id` too, which rows contain"),
    ],
)
@pytest.mark.parametrize("model_type", ["dimba", "llada"])
def test_a_mask_token_that_config_json_contradicts_is_refused(tmp_path: Path, model_type: str, mask: Any, says: str):
    sizes = {"vocab_size": 300, "eos_token_id": 2}
    found = facts(tmp_path, model_type=model_type, auto_map=MAPPED, mask_token_id=mask, **sizes)
    assert found.refusal and says in found.refusal.problem and "correct `mask_token_id`" in found.refusal.hint
    assert facts(tmp_path / "right", model_type=model_type, auto_map=MAPPED, mask_token_id=299, **sizes).refusal is None


@pytest.mark.parametrize(
    ("model_type", "name"), [("bert", "BertForMaskedLM"), ("diffusion_gemma", "DiffusionGemmaForBlockDiffusion")]
)
def test_other_models_whose_tokens_see_each_other_are_refused_as_before(tmp_path: Path, model_type: str, name: str):
    found = facts(tmp_path, model_type=model_type, architectures=[name])
    assert found.family is CAUSAL and found.refusal


def test_an_option_at_its_default_is_not_refused():
    for each in DIMBA.options:
        assert not any(each.refuses(value) for value in (None, "auto", each.param.default)), each.param.flag
    divided = next(each for each in DIMBA.options if each.param.key)
    assert divided.refuses(2) and list(DIMBA.refused_options(lambda param: param.default)) == []


def test_a_familys_facts_are_of_objectives_and_options_that_there_are():
    known = {param.flag for objective in OBJECTIVES.values() for param in objective.params.values()}
    for family in (CAUSAL, DIMBA, MASKED_BY_CODE, DREAM):
        assert set(family.objectives or ()) <= set(OBJECTIVES)
        assert {each.param.flag for each in family.options} <= known
