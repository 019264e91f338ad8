"""A checkpoint's weights come back whole, also where its files name them otherwise than the model does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dimba.common.errors import BadInput
from dimba.trainers.models.checkpoint_weights import has_other_names
from dimba.trainers.models.checkpoints import CompleteCheckpoints
from tests.families import make_family

pytestmark = pytest.mark.slow


class PlainTrainer:
    """Loads as transformers' trainer does: what does not fit is skipped."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        self.model.load_state_dict(load_file(Path(folder, "model.safetensors")), strict=False)


class OurTrainer(CompleteCheckpoints, PlainTrainer):
    pass


def model_in(folder: Path, family: str) -> Any:
    make_family(family, folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    ("family", "renamed"),
    [("llama", False), ("gemma", False), ("mixtral", True), ("qwen2_moe", True), ("granitemoe", True)],
)
def test_every_weight_comes_back(family: str, renamed: bool, tmp_path: Path):
    model = model_in(tmp_path, family)
    expected = {name: each.clone() for name, each in model.state_dict().items()}
    with torch.no_grad():
        for each in model.parameters():
            each.zero_()
    assert has_other_names(model, tmp_path) == renamed
    OurTrainer(model)._load_from_checkpoint(str(tmp_path))
    assert all(torch.equal(each, expected[name]) for name, each in model.state_dict().items())


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path):
    model = model_in(tmp_path, "mixtral")
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="missing keys"):
        OurTrainer(model)._load_from_checkpoint(str(tmp_path))


def test_an_adapter_and_a_sharded_model_are_left_to_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loaded = []
    monkeypatch.setattr(PlainTrainer, "_load_from_checkpoint", lambda _self, folder, _model: loaded.append(folder))
    OurTrainer(SimpleNamespace(peft_config={}))._load_from_checkpoint("adapter")
    monkeypatch.setattr("dimba.trainers.models.checkpoints.is_sharded", lambda: True)
    OurTrainer(SimpleNamespace())._load_from_checkpoint("shards", None)
    assert loaded == ["adapter", "shards"]
