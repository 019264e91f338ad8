"""Merged weights: what a sampler takes over computes what the trained model does, and the model stays as it was."""

from typing import Any

import pytest
import torch

from tests.trainers.test_packing import PACKS, tiny

ADAPTERS = {
    "full": None,
    "lora": {"target_modules": "all-linear"},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "trainable_tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5]}},
    "experts": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    },
}


def base(kind: str) -> Any:
    family = "Qwen3Moe" if kind == "experts" else "Llama"
    return tiny(family, PACKS[family])


def adapted(kind: str, dtype: torch.dtype) -> Any:
    from peft import LoraConfig, get_peft_model

    model = base(kind).to(dtype)
    if settings := ADAPTERS[kind]:
        model = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_base_with_the_merged_weights_computes_what_the_adapted_model_does(kind: str):
    from dimba.trainers.models.merged import merged_weights

    model, plain, ids = adapted(kind, torch.float32), base(kind), torch.arange(1, 20)[None]
    missing, unexpected = plain.load_state_dict(dict(merged_weights(model)), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    with torch.no_grad():
        assert (plain(ids).logits - model(ids).logits).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ADAPTERS)
def test_merging_leaves_every_bit_of_the_model_as_it_was(kind: str):
    from dimba.trainers.models.merged import merged_weights

    model = adapted(kind, torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(3):
        assert len(dict(merged_weights(model))) > 10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
