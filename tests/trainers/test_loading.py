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
from dimba.trainers.data.chat import prepare_tokenizer
from dimba.trainers.models.loading import (
    Compute,
    check_checkpoint,
    load_classifier,
    load_model,
    load_reference,
    load_tokenizer,
    nf4,
)
from dimba.trainers.models.pretrained import load_complete
from dimba.trainers.models.vocabulary import untie

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


def test_matrices_of_any_side_answer_in_4_bits_on_a_cpu(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 130, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=96, **sizes)).save_pretrained(tmp_path)
    four_bits = {"quantization_config": nf4(torch.float32), "device_map": {"": "cpu"}, "trust_remote_code": False}
    model = load_complete(AutoModelForCausalLM, str(tmp_path), **four_bits).eval()
    with torch.no_grad():
        assert model(torch.arange(8)[None]).logits.isfinite().all()


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


@pytest.mark.parametrize("flags", [(), ("--use-lora",), ("--use-qlora",)])
def test_a_base_of_zeros_is_refused(flags: tuple[str, ...], base: Path) -> None:
    change_weights(base, lambda found: {name: torch.zeros_like(each) for name, each in found.items()})
    with pytest.raises(BadInput, match=r"only zeros in 16 of its 16 matrices, as in `"):
        load_model(options(base, *flags), CPU)


def test_layers_that_add_nothing_yet_are_reported(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    down = "model.layers.1.mlp.down_proj.weight"
    change_weights(base, lambda found: {**found, down: torch.zeros_like(found[down])})
    load_model(options(base), CPU)
    assert f"matrices with only zeros in the base: `{down}`" in capsys.readouterr().out


NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BROKEN_FILES = {
    "cut off": (lambda base: os.truncate(base / "model.safetensors", 5000), "ends early", "copy"),
    "empty": (lambda base: os.truncate(base / "model.safetensors", 0), "is empty", "copy"),
    "pointer": (lambda base: (base / "model.safetensors").write_text("version https://git-lfs"), "git-lfs", "lfs pull"),
    "header": (lambda base: swap_offsets(base / "model.safetensors"), "a file of its weights is broken", "copy"),
    "shard": (lambda base: (base / "model.safetensors").rename(base / "x.safetensors"), "lacks y.saf", "incomplete"),
    "activation": (lambda base: change_config(base, hidden_act="of_none"), "KeyError: 'of_none'", "config.json"),
    "rotation": (lambda base: change_config(base, rope_scaling={"type": "none"}), "KeyError: 'none'", "config.json"),
    "type": (lambda base: change_config(base, hidden_size="128"), "hidden_size", "config.json"),
    "null": (lambda base: change_config(base, num_hidden_layers=None), "num_hidden_layers", "config.json"),
    "head size": (lambda base: change_config(base, num_attention_heads=0, head_dim=None), "Zero", "config.json"),
    "not packed": (lambda base: change_config(base, quantization_config=NF4), "are not packed", "remove"),
    "no scheme": (lambda base: change_config(base, quantization_config={}), "quant_method", "quantization_config"),
    "mark": (lambda base: (base / "config.json").write_text("\ufeff{}"), "byte order mark", "sed -i"),
    "unknown": (lambda base: change_config(base, model_type="of_none"), "of_none", "pip install -U transformers"),
    "no JSON": (lambda base: (base / "config.json").write_text("{"), "config.json is not JSON", "copy"),
}  # fmt: skip


def swap_offsets(file: Path) -> None:
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["model.norm.weight"]["data_offsets"] = header[UP]["data_offsets"]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_or_value_is_refused_with_its_name(name: str, base: Path) -> None:
    change, problem, hint = BROKEN_FILES[name]
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "y.safetensors"}}))
    change(base)
    with pytest.raises(BadInput, match=problem) as error:
        load_model(options(base, "--use-lora"), CPU)
    assert hint in error.value.hint


BROKEN_TOKENIZERS = {
    "none": (lambda base: (base / "tokenizer.json").unlink(), "has no tokenizer.json, which", "tokenizer.json"),
    "cut off": (lambda base: os.truncate(base / "tokenizer.json", 3000), "line", "copy tokenizer.json"),
    "no object": (lambda base: (base / "tokenizer.json").write_text("{}"), "KeyError: 'added", "copy tokenizer.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_TOKENIZERS)
def test_a_broken_tokenizer_is_refused_as_such(name: str, base: Path) -> None:
    change, problem, hint = BROKEN_TOKENIZERS[name]
    change(base)
    with pytest.raises(BadInput, match=problem) as error:
        load_tokenizer(str(base))
    assert hint in error.value.hint


def test_chat_templates_of_which_none_is_the_usual_one_are_refused(base: Path) -> None:
    tokenizer = load_tokenizer(str(base))
    tokenizer.chat_template = {"rag": "x", "tool_use": "y"}
    with pytest.raises(BadInput, match="`rag`, `tool_use`, and none named `default`"):
        prepare_tokenizer(tokenizer)


def test_attention_that_is_not_installed_is_replaced(base: Path) -> None:
    for name in ("attn_implementation", "_attn_implementation"):
        change_config(base, **{name: "flash_attention_2"})
        assert load_model(options(base), CPU).config._attn_implementation == "sdpa"


def test_a_head_that_differs_from_the_embedding_is_no_longer_declared_tied(base: Path) -> None:
    change_config(base, tie_word_embeddings=True)
    model = load_model(options(base), CPU)
    assert "tie_word_embeddings: false" in untie(model)
    assert model.config.tie_word_embeddings is False
    change_weights(base, without("lm_head"))
    model = load_model(options(base), CPU)
    assert untie(model) == "" and model.config.tie_word_embeddings is True


def test_a_prefix_that_the_library_ignores_is_accepted(base: Path) -> None:
    expected = load_model(options(base), CPU).state_dict()
    change_weights(base, renamed("model.{}".format))
    found = load_model(options(base), CPU).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_large_finite_weights_are_accepted(base: Path) -> None:
    change_weights(base, lambda found: {**found, UP: torch.full_like(found[UP], 3e38)})
    assert load_model(options(base), CPU)
