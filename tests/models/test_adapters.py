"""Every module that an adapter covers by default changes what DIMBA computes, and some are never quantised."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForMaskedLM, BitsAndBytesConfig
from transformers.models.mamba2 import modeling_mamba2

from dimba.common.checkpoint import read_checkpoint
from dimba.common.checkpoint.adapted import adapted_by_default
from dimba.host.checkpoint import facts_of_tensors
from dimba.models.dimba import mixing
from dimba.trainers.models.adapters import left_out
from dimba.trainers.models.loading import _differentiable
from tests.models.tiny import tiny_dimba


def adapted() -> nn.Module:
    model = tiny_dimba()
    config = LoraConfig(r=2, target_modules="all-linear", exclude_modules=left_out(model), init_lora_weights=False)
    return get_peft_model(model, config).eval()


def changing(model: nn.Module) -> dict[str, float]:
    """By how much the adapter of each module changes the logits."""
    ids = torch.randint(1, 96, (1, 12), generator=torch.Generator().manual_seed(0))
    layers = {name: each for name, each in model.named_modules() if hasattr(each, "lora_B")}
    with torch.no_grad():
        wanted = model(input_ids=ids, t=torch.tensor([0.5])).logits
        found = {}
        for name, layer in layers.items():
            weight = layer.lora_B["default"].weight
            kept = weight.clone()
            weight.zero_()
            found[name] = float((model(input_ids=ids, t=torch.tensor([0.5])).logits - wanted).abs().max())
            weight.copy_(kept)
    return found


@pytest.mark.parametrize("path", ["pure", "fused"])
def test_every_adapted_module_changes_the_logits(path: str, monkeypatch: pytest.MonkeyPatch):
    if path == "fused":  # transformers' own fallbacks stand behind the hooks of the kernels
        monkeypatch.setattr(mixing, "active_scan", lambda device: mixing.FUSED)
        monkeypatch.setattr(modeling_mamba2, "mamba2_split_conv1d_scan_combined", None)  # reads out_proj's weight
    found = changing(adapted())
    kinds = {name.rpartition(".")[2] for name in found}
    assert kinds == {
        *("in_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "modulation"),
        *("dense_in", "dense_out", "projection"),
    }
    assert not [name for name, change in found.items() if change < 1e-6]


def test_a_step_gives_every_adapter_a_gradient():
    model = adapted().train()
    ids = torch.randint(1, 96, (2, 12))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(each.grad is not None and each.grad.any() for each in model.parameters() if each.requires_grad)


def test_the_host_knows_the_same_modules_from_the_names_alone(tmp_path: Path):
    model = tiny_dimba()
    model.save_pretrained(tmp_path)
    facts = facts_of_tensors(model.config.to_dict(), read_checkpoint(tmp_path).tensors)
    found = {name.removeprefix("base_model.model.") for name in changing(adapted())}
    assert adapted_by_default(facts.linear_sides or {}, "dimba", not_called=facts.family.not_called) == found


def test_an_adapter_on_a_convolution_is_left_out():
    assert "conv1d" in str(left_out(tiny_dimba()))


def test_projections_out_of_a_mixer_and_convolutions_are_never_in_4_bits(tmp_path: Path):
    model = tiny_dimba()
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    packed = AutoModelForMaskedLM.from_pretrained(tmp_path, quantization_config=config, device_map={"": "cpu"})
    packed = _differentiable(packed)
    kinds: dict[str, set[str]] = {}
    for name, module in packed.named_modules():
        if "weight" in dict(module.named_parameters(recurse=False)):
            kinds.setdefault(name.rpartition(".")[2], set()).add(type(module).__name__)
    assert kinds["in_proj"] == kinds["gate_proj"] == {"Linear4bit"}
    assert kinds["out_proj"] == {"DimbaLinear"}
    assert kinds["conv1d"] == {"Conv1d"}
    assert kinds["modulation"] == {"DimbaModulation"}
    matrices = [module for module in model.modules() if type(module) is nn.Linear and module is not model.lm_head]
    facts = facts_of_tensors(model.config.to_dict(), read_checkpoint(tmp_path).tensors)
    assert facts.linear_parameters == sum(each.weight.numel() for each in matrices)
    ids = torch.randint(1, 96, (2, 12))
    difference = packed(ids, t=torch.ones(2)).logits - model(ids, t=torch.ones(2)).logits
    assert difference.norm() < 0.3 * model(ids, t=torch.ones(2)).logits.norm()
