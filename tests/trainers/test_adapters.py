"""The adapter covers what the options say, on every base, and is saved so that it loads again."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from dimba.common.errors import BadInput
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.models.adapters import adapter_config, router_names
from dimba.trainers.models.loading import choose_compute, load_model
from dimba.trainers.objectives.sft.train import train
from tests.conftest import QUESTIONS, write_rows

pytestmark = pytest.mark.slow
CPU = choose_compute("cpu")
TWO_STEPS = ("--max-steps", "2", "--batch-size", "4", "--grad-accumulation-steps", "1", "--learning-rate", "1e-2")


def options(base: Path, *flags: str, data: str = "rows", out: str = "out") -> SftOptions:
    given = SFT.parse(
        ["--base-checkpoint", str(base), "--dataset", data, "--output-dir", out, "--device", "cpu", *flags]
    )
    assert isinstance(given, SftOptions)
    return given


def adapted(base: Path, *flags: str) -> set[str]:
    """The names of the modules that get an adapter."""
    given = options(base, "--use-lora", *flags)
    model = load_model(given, CPU)
    tuned = get_peft_model(model, adapter_config(given, model))
    return {name.removeprefix("base_model.model.") for name, each in tuned.named_modules() if hasattr(each, "lora_A")}


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (("q_proj",), {"q_proj"}),
        ((r".*\.1\.mlp\..*_proj",), {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_names_and_patterns_choose_the_matrices(flags: tuple[str, ...], ends: set[str], tiny_checkpoint: Path):
    found = adapted(tiny_checkpoint, "--target-modules", *flags)
    assert {name.rpartition(".")[2] for name in found} == ends
    assert ("layers.0" in str(found)) == (not flags[0].startswith("."))


@pytest.mark.parametrize("flag", ["--target-modules", "--lora-modules-to-save"])
def test_a_name_that_no_module_has_is_refused_with_the_nearest(flag: str, tiny_checkpoint: Path):
    given = options(tiny_checkpoint, "--use-lora", flag, "q_porj")
    with pytest.raises(BadInput, match="no module of the base is named `q_porj`") as refused:
        adapter_config(given, load_model(given, CPU))
    assert refused.value.hint == "did you mean `q_proj`?"


def test_a_token_that_the_tokenizer_lacks_is_refused(tiny_checkpoint: Path):
    given = options(tiny_checkpoint, "--use-lora", "--trainable-tokens", "<|nothing|>")
    with pytest.raises(BadInput, match=r"no token `<\|nothing\|>`"):
        adapter_config(given, load_model(given, CPU), AutoTokenizer.from_pretrained(tiny_checkpoint))


def experts(kind: str, **more: Any) -> torch.nn.Module:
    """A tiny mixture of experts without weights."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64, "pad_token_id": 0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **heads, **more))


@pytest.mark.parametrize(
    ("kind", "more", "routers"),
    [
        ("phimoe", {"num_local_experts": 4}, {"router"}),
        ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 16}, {"gate", "shared_expert_gate"}),
        ("hunyuan_v1_moe", {"num_experts": 4, "head_dim": 8}, {"wg"}),
        ("mixtral", {"num_local_experts": 4}, {"gate"}),
    ],
)
def test_the_routers_of_experts_get_no_adapter_by_default(kind: str, more: dict[str, Any], routers: set[str], capsys):
    model = experts(kind, **more)
    assert {name.rpartition(".")[2] for name in router_names(model)} == routers
    given = options(Path("base"), "--use-lora")
    with torch.device("meta"):
        tuned = get_peft_model(model, adapter_config(given, model))
    covered = {name.rpartition(".")[2] for name, each in tuned.named_modules() if hasattr(each, "lora_A")}
    assert "q_proj" in covered and not covered & routers
    assert "routers of the experts get no adapter" in capsys.readouterr().out


WAYS = {
    "dropout, rsLoRA": ("--lora-dropout", "0.1", "--use-rslora"),
    "DoRA": ("--use-dora",),
    "gaussian": ("--lora-init", "gaussian"),
    "orthogonal": ("--lora-init", "orthogonal"),
    "whole modules": ("--modules-to-save", "embed_tokens", "lm_head"),
    "tokens": ("--trainable-tokens", "<|end|>"),
    "8 bit": ("--optimizer", "adamw_8bit", "--scheduler", "cosine", "--warmup", "1", "--weight-decay", "0.1"),
}


QUANTISED = [
    pytest.param("--use-qlora", way, marks=pytest.mark.proof, id=f"{name}, Q-LoRA")
    for name, way in WAYS.items()
    if name != "orthogonal"  # refused, as the next test shows
]


@pytest.mark.parametrize(
    ("method", "way"), [*(pytest.param("--use-lora", way, id=name) for name, way in WAYS.items()), *QUANTISED]
)
def test_every_way_trains_and_gives_the_same_logits_when_loaded_again(
    method: str, way: tuple[str, ...], tiny_checkpoint: Path, tmp_path: Path
):
    data, out = write_rows(tmp_path / "data.jsonl", QUESTIONS), tmp_path / "out"
    assert train(options(tiny_checkpoint, method, *way, *TWO_STEPS, data=str(data), out=str(out))) == 0
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    tokens = torch.tensor([[1, 7, 8, 2, 9]])
    before = base(tokens).logits
    tuned = PeftModel.from_pretrained(base, out)
    assert not torch.equal(tuned(tokens).logits, before)
    if "--trainable-tokens" in way:
        saved = json.loads((out / "adapter_config.json").read_text())["trainable_token_indices"]
        assert all(rows == [2] for rows in saved.values()) and saved


def test_an_orthogonal_start_needs_a_base_that_is_not_quantised(tiny_checkpoint: Path):
    given = options(tiny_checkpoint, "--use-qlora", "--lora-init", "orthogonal")
    with pytest.raises(BadInput, match="orthogonal"):
        adapter_config(given, load_model(given, CPU))
