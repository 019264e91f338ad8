"""Adapters on masked-diffusion bases whose code comes with them: what is adapted counts, what cannot be is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimba.common.errors import BadInput
from dimba.objectives.sft import SFT
from dimba.trainers.models.adapters import adapter_config
from dimba.trainers.models.masked_diffusion.forward import half_masked
from tests.trainers.masked.bases import CHATS, make_masked
from tests.trainers.masked.test_masked_sft import loaded, run

pytestmark = pytest.mark.slow
KINDS = ("llada", "Dream")


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_masked(tmp_path_factory.mktemp("base") / request.param, request.param)


def adapted(base: Path, *flags: str) -> Any:
    from peft import get_peft_model

    named = ("--base-checkpoint", str(base), "--dataset", "none.jsonl", "--output-dir", "none")
    model = loaded(base)
    config = adapter_config(SFT.parse([*named, "--use-lora", "--trust-remote-code", *flags]), model)
    return get_peft_model(model, config).eval()


def test_every_adapted_module_changes_the_logits(base: Path):
    model = adapted(base)
    layers = {name: each for name, each in model.named_modules() if hasattr(each, "lora_B")}
    assert {name.rpartition(".")[2] for name in layers} == {"qkv", "out", "up", "down"}
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        before = half_masked(model.get_base_model(), ids)
        for name, layer in layers.items():
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
            after = half_masked(model.get_base_model(), ids)
            assert (after - before).abs().max() > 1e-6, name
            before = after


def test_targets_without_effect_are_refused(base: Path):
    for target, why in (("head", "gets no adapter: the loss reads its weights"), ("norm", "is no matrix")):
        with pytest.raises(BadInput, match=why):
            adapted(base, "--lora-target-modules", target)


def test_a_head_trained_whole_and_the_rows_of_a_token_are_trained_and_saved(base: Path, tmp_path: Path):
    flags = ("--max-steps", "2", "--batch-size", "4", "--grad-accumulation-steps", "1", "--learning-rate", "1e-2")
    for number, more in enumerate((("--lora-modules-to-save", "head"), ("--lora-trainable-tokens", "<|mask|>"))):
        status, output = run(base, tmp_path / str(number), *flags, "--use-lora", *more, rows=CHATS)
        assert status == 0 and "learned: " in output and "warning" not in output, output
    assert any("head" in name for name in load_file(tmp_path / "0" / "out" / "adapter_model.safetensors"))
