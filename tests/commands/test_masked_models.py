"""Commands with a masked-diffusion model, from the host: what it does not have is refused before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.eval.request import EvalRequest, find_contestants
from dimba.commands.export.command import Export
from dimba.commands.export.request import ExportRequest
from dimba.commands.serve.serve import ServeRequest, serve
from dimba.commands.serving_lines import MERGED, Served, serving_lines
from dimba.commands.talk.request import TalkRequest, find_models
from dimba.common.errors import BadInput
from dimba.common.inference import ENGINES, Sampling
from dimba.jobs.model_source import ModelRequest
from dimba.objectives.families import DIMBA, MASKED_BY_CODE
from dimba.objectives.rewards import parse_rewards
from tests.commands.test_talk import Quiet
from tests.conftest import hollow_checkpoint

WHERE = ModelRequest(runner="process", gpus="none")


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """A masked-diffusion model, an adapter on it, and a causal model."""
    masked, causal = hollow_checkpoint(tmp_path / "masked"), hollow_checkpoint(tmp_path / "causal")
    (masked / "config.json").write_text(json.dumps({"model_type": "dimba", "mask_token_id": 3}), encoding="utf-8")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(masked)}), encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    return {"masked": str(masked), "adapter": str(adapter), "causal": str(causal)}


@pytest.mark.parametrize("name", ["masked", "adapter"])
def test_neither_serve_nor_gguf_takes_a_masked_diffusion_model(name: str, models: dict[str, str]):
    for engine in ENGINES:
        with pytest.raises(BadInput, match=f"{name} is a masked-diffusion .* in any order") as refused:
            serve(ServeRequest(model=models[name], port=0, engine=engine, where=WHERE), Quiet(), lambda _: None)
        assert "dimba chat" in refused.value.hint
    for asked in ({}, {"check": ""}):
        request = ExportRequest(model=models[name], gguf="q8_0", where=WHERE, **asked)
        with pytest.raises(BadInput, match=r"llama\.cpp does not run") as refused:
            Export(request, Quiet()).run(lambda _: None)
        assert refused.value.key == "--gguf" and "--merged" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "flag", "values"),
    [
        ("masked", "--top-p", {"top_p": 0.9}),
        ("adapter", "--top-k", {"top_k": 4}),
        ("causal", "--diffusion-steps", {"diffusion_steps": 4}),
        ("causal", "--block-length", {"block_length": 4}),
        ("causal", "--guidance", {"guidance": 0.0}),
    ],
)
def test_a_flag_that_a_model_does_not_sample_with_is_refused(
    name: str, flag: str, values: dict[str, Any], models: dict[str, str]
):
    other = "masked" if name == "causal" else "causal"
    for model, against in ((models[name], None), (models[other], models[name])):
        request = TalkRequest(model=model, against=against, sampling=Sampling(**values), where=WHERE)
        with pytest.raises(BadInput, match=f"{name} is .* does not sample with it") as refused:
            find_models(request, Quiet())
        assert refused.value.key == flag
    find_models(TalkRequest(model=models[other], sampling=Sampling(**values), where=WHERE), Quiet())


def test_a_bound_is_not_compared_with_a_loss_and_answers_are(models: dict[str, str]):
    request = EvalRequest(models=(models["masked"],), against=models["causal"], where=WHERE)
    found = find_contestants(request, Quiet())
    assert found.loss == ""
    with pytest.raises(BadInput, match="the bound of masked and the loss of causal do not compare") as refused:
        found.require_measures(request)
    assert "--reward" in refused.value.hint
    asks = EvalRequest(models=request.models, against=request.against, rewards=parse_rewards(["numeric"]), where=WHERE)
    found.require_measures(asks)
    adapter = EvalRequest(models=(models["adapter"],), tasks=("arc_easy",), where=WHERE)
    with_base = find_contestants(adapter, Quiet())
    assert with_base.loss == "bound"
    with pytest.raises(BadInput, match="tasks compare likelihoods") as refused:
        with_base.require_measures(adapter)
    assert refused.value.key == "--tasks"


def test_an_export_names_what_loads_it_and_no_server(tmp_path: Path):
    lines = "\n".join(serving_lines(Served(kind=MERGED, path=tmp_path, name="toy", family=DIMBA)))
    assert "import dimba.models.dimba; from transformers import AutoModelForMaskedLM" in lines
    assert "dimba chat" in lines and "vllm" not in lines.lower() and "gguf" not in lines.lower()
    by_code = "\n".join(serving_lines(Served(kind=MERGED, path=tmp_path, name="toy", family=MASKED_BY_CODE)))
    assert 'AutoModel.from_pretrained("' in by_code and "trust_remote_code=True" in by_code
