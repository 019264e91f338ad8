"""A base's weights all come from its files, and are numbers: anything else is refused before the first step."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dimba.common.errors import BadInput
from dimba.objectives.sft import SFT, SftOptions
from dimba.trainers.models.loading import Compute, check_checkpoint, load_classifier, load_model, load_reference

CPU = Compute(on_cpu=True, mixed="no")
Weights = dict[str, torch.Tensor]


def options(base: Path, *flags: str) -> SftOptions:
    return SFT.parse(
        ["--base-checkpoint", str(base), "--dataset", "x", "--output-dir", "y", "--max-length", "128", *flags]
    )


@pytest.fixture
def base(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))


def change_weights(base: Path, change: Callable[[Weights], Weights]) -> None:
    file = base / "model.safetensors"
    changed = {name: weight.clone() for name, weight in change(load_file(file)).items()}
    save_file(changed, file, metadata={"format": "pt"})


def change_config(base: Path, **values: Any) -> None:
    file = base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def without(*parts: str) -> Callable[[Weights], Weights]:
    return lambda found: {name: each for name, each in found.items() if not any(part in name for part in parts)}


def renamed(rename: Callable[[str], str]) -> Callable[[Weights], Weights]:
    return lambda found: {rename(name): each for name, each in found.items()}


def with_weight(name: str, *shape: int) -> Callable[[Weights], Weights]:
    return lambda found: {**found, name: torch.ones(shape)}


def cut(found: Weights) -> Weights:
    name = "model.layers.1.mlp.up_proj.weight"
    return {**found, name: found[name][:-3]}


UP = "model.layers.0.mlp.up_proj.weight"
BROKEN = {
    "head": (without("lm_head"), r"lacks `lm_head.weight` of the 21 weights of Llama", "tie_word_embeddings: true"),
    "layer": (without("layers.1."), r"lacks `model.layers.1.input_layernorm.weight` and 8 others", "copy"),
    "compiled": (renamed("_orig_mod.{}".format), "`_orig_mod.lm_head.weight`", "re.sub"),
    "compiled inside": (renamed(lambda name: name.replace("model.", "model._orig_mod.")), "_orig_mod", "re.sub"),
    "parallel": (renamed("module.{}".format), "`module.lm_head.weight`", "re.sub"),
    "prefixed": (renamed("policy.{}".format), "`policy.lm_head.weight`", "re.sub"),
    "shape": (cut, r"`model.layers.1.mlp.up_proj.weight` of shape 253×128.* asks for 256×128", "copy"),
    "more layers": (with_weight("model.layers.2.mlp.up_proj.weight", 2), r"layers\.2", "num_hidden_layers: 3"),
    "bias": (with_weight("model.layers.0.self_attn.q_proj.bias", 128), "q_proj.bias", "copy"),
    "score": (lambda found: with_weight("score.weight", 1, 128)(without("lm_head")(found)), "head", "causal model"),
    "adapter": (with_weight("model.layers.0.mlp.up_proj.lora_A.weight", 2), "lora_A", "merge"),
    "packed": (with_weight("model.layers.0.mlp.up_proj.qzeros", 2), "qzeros", "quantised"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_weights_that_are_not_those_of_the_model_are_refused_before_they_are_read(name: str, base: Path) -> None:
    change, problem, hint = BROKEN[name]
    change_weights(base, change)
    for check in (check_checkpoint, lambda given: load_model(given, CPU)):
        with pytest.raises(BadInput, match=problem) as error:
            check(options(base))
        assert hint.replace("\\", "") in error.value.hint, error.value.hint


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("change", ["missing", "cut", "extra"])
def test_experts_that_do_not_fit_together_are_refused(family: str, change: str, tmp_path: Path) -> None:
    from tests.families import make_family

    def broken(found: Weights) -> Weights:
        name = min(name for name in found if ".experts.0." in name)
        kept = {other: each for other, each in found.items() if other != name}
        if change == "extra":
            return {**found, name.replace(".0.", ".9.").replace("layers.9", "layers.0"): found[name]}
        return kept if change == "missing" else {**kept, name: found[name][:-3]}

    make_family(family, tmp_path)
    change_weights(tmp_path, broken)
    for check in (check_checkpoint, lambda given: load_model(given, CPU)):
        with pytest.raises(BadInput, match=r"layers\.0\.mlp\.experts"):
            check(options(tmp_path))


def test_a_base_that_is_quantised_already_is_loaded_for_an_adapter(base: Path, tmp_path: Path) -> None:
    model = load_model(options(base, "--use-qlora"), CPU)
    model.save_pretrained(tmp_path / "packed")
    assert load_model(options(tmp_path / "packed", "--use-lora"), CPU).is_loaded_in_4bit


def test_what_is_loaded_beside_the_trained_model_is_held_to_the_same(base: Path) -> None:
    change_weights(base, without("layers.1."))
    for load in (
        lambda: load_model(options(base, "--use-qlora"), CPU),
        lambda: load_reference(options(base), CPU),
        lambda: load_classifier(str(base), options(base), CPU),
    ):
        with pytest.raises(BadInput, match=r"layers\.1"):
            load()


def test_a_vocabulary_of_another_size_names_the_key_that_sets_it(base: Path) -> None:
    change_config(base, vocab_size=600)
    with pytest.raises(BadInput, match="600×128") as error:
        check_checkpoint(options(base))
    assert "`vocab_size: " in error.value.hint


def test_the_command_of_the_hint_repairs_prefixed_names_in_shards(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(base).save_pretrained(base, max_shard_size="200KB")
    (base / "model.safetensors").unlink()
    for file in base.glob("*.safetensors"):
        save_file({f"_orig_mod.{name}": each for name, each in load_file(file).items()}, file, {"format": "pt"})
    index = base / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"] = {f"_orig_mod.{name}": file for name, file in found["weight_map"].items()}
    index.write_text(json.dumps(found, indent=2))
    with pytest.raises(BadInput) as error:
        load_model(options(base), CPU)
    command = error.value.hint.partition("`")[2].removesuffix("`")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(command, shell=True, check=True, capture_output=True, env={**os.environ, "PATH": path})
    assert load_model(options(base), CPU)


@pytest.mark.parametrize(
    ("leftover", "reported"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", ""),  # which the library knows
        ("mtp.layers.0.mlp.up_proj.weight", "further tokens"),
        ("visual.blocks.0.attn.qkv.weight", "images"),
        ("model.vision_tower.encoder.layers.7.mlp.fc1.weight", "images"),
        ("v_head.summary.weight", "value head"),
    ],
)
def test_harmless_leftovers_are_reported_in_one_line(
    leftover: str, reported: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weights(base, with_weight(leftover, 4))
    load_model(options(base), CPU)
    lines = [line for line in capsys.readouterr().out.splitlines() if leftover in line]
    assert all(reported in line for line in lines) and len(lines) == bool(reported)


def test_a_tied_head_needs_no_weights_of_its_own(base: Path) -> None:
    change_config(base, tie_word_embeddings=True)
    change_weights(base, without("lm_head"))
    model = load_model(options(base), CPU)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("flags", [(), ("--use-lora",), ("--use-qlora",)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(flags: tuple[str, ...], value: float, base: Path) -> None:
    def broken(found: Weights) -> Weights:
        found[UP][3, 4] = value
        found["model.norm.weight"][0] = -value
        return found

    change_weights(base, broken)
    with pytest.raises(BadInput, match=rf"NaN or infinite values: 1 in `{UP}`, and in 1 other tensor"):
        load_model(options(base, *flags), CPU)


def test_large_finite_weights_are_accepted(base: Path) -> None:
    change_weights(base, lambda found: {**found, UP: torch.full_like(found[UP], 3e38)})
    assert load_model(options(base), CPU)
