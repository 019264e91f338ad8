"""Weights that are missing, wrongly named or misshapen are known from the headers; right ones are never refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from dimba.common.checkpoint import Checkpoint, weights_refusal
from dimba.common.checkpoint.weights import _entry, _Family

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 160,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 384,
}  # fmt: skip
LAYER = {
    "input_layernorm": [64], "post_attention_layernorm": [64], "mlp.gate_proj": [160, 64], "mlp.up_proj": [160, 64],
    "mlp.down_proj": [64, 160], "self_attn.q_proj": [64, 64], "self_attn.k_proj": [32, 64],
    "self_attn.v_proj": [32, 64], "self_attn.o_proj": [64, 64],
}  # fmt: skip
OUTSIDE = {"model.embed_tokens.weight": [384, 64], "model.norm.weight": [64], "lm_head.weight": [384, 64]}
LLAMA = OUTSIDE | {f"model.layers.{n}.{name}.weight": shape for n in range(2) for name, shape in LAYER.items()}


def refused(shapes: dict[str, list[int]], folder: Path = Path("/base"), **changed: Any) -> tuple[str, str] | None:
    header = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    return weights_refusal(Checkpoint(folder, {**CONFIG, **changed}, header))


def without(*names: str) -> dict[str, list[int]]:
    return {name: shape for name, shape in LLAMA.items() if not re.search("|".join(names), name)}


@pytest.mark.parametrize(
    ("shapes", "changed"),
    [
        (LLAMA, {}),
        ({name.removeprefix("model."): shape for name, shape in LLAMA.items()}, {}),
        ({f"model.{name}": shape for name, shape in LLAMA.items()}, {}),  # the library ignores it once too often
        (without("lm_head"), {"tie_word_embeddings": True}),
        (without("embed_tokens"), {"tie_word_embeddings": True}),
        (LLAMA | {"model.layers.0.self_attn.rotary_emb.inv_freq": [8]}, {}),
        (LLAMA | {f"model.layers.{n}.self_attn.{x}_proj.bias": [64] for n in range(2) for x in "q"}, {}),
        ({"anything": [1]}, {"model_type": "of_tomorrow"}),
        ({"anything": [1]}, {"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}),
        ({"model.layers.0.mlp.up_proj.qweight": [1]}, {"quantization_config": {"quant_method": "gptq"}}),
        ({}, {}),
        (LLAMA | {"lm_head.weight": [500, 64]}, {"tie_word_embeddings": True}),
    ],
)
def test_right_weights_are_not_refused(shapes: dict[str, list[int]], changed: dict[str, Any]):
    assert refused(shapes, **changed) is None


def test_a_missing_head_is_named_with_the_way_out():
    problem, hint = refused(without("lm_head")) or ("", "")
    assert "lacks its language model's head (`lm_head.weight`), which would be random" in problem
    assert "tie_word_embeddings: true" in hint


def test_missing_weights_are_named_and_counted():
    problem, _ = refused(without(r"layers\.1\..*proj")) or ("", "")
    assert (
        "which would be random: `model.layers.1.mlp.down_proj.weight`, `model.layers.1.mlp.gate_proj.weight`" in problem
    )
    assert problem.endswith("and 4 more")


def test_layers_are_counted_against_the_configuration():
    problem, hint = refused(LLAMA, num_hidden_layers=4) or ("", "")
    assert "it has 2 layers, and `num_hidden_layers` in config.json is 4" in problem and hint
    problem, hint = refused(LLAMA, num_hidden_layers=1) or ("", "")
    assert "weights of 2 layers, and `num_hidden_layers` in config.json is 1" in problem
    assert "`num_hidden_layers: 2`" in hint


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module.module.", "_orig_mod.model.", "language_model.", "policy.x."]
)
def test_the_prefix_of_a_wrapper_is_named_with_the_command_that_removes_it(prefix: str, tmp_path: Path):
    problem, hint = refused({f"{prefix}{name}": shape for name, shape in LLAMA.items()}, tmp_path) or ("", "")
    first = re.split(r"(?<=\.)", prefix)[0]
    assert f"`{first}" in problem and f"(`{prefix}model.embed_tokens.weight`)" in problem
    assert "re.sub" in hint and str(tmp_path) in hint


@pytest.mark.parametrize("head", ["score.weight", "classifier.weight", "qa_outputs.bias"])
@pytest.mark.parametrize("prefix", ["model.", "transformer."])
def test_the_head_of_a_classifier_is_named_whatever_the_configuration_says(head: str, prefix: str):
    names = {name.replace("model.", prefix): shape for name, shape in without("lm_head").items()} | {head: [2, 64]}
    for tied in (True, False):
        problem, hint = refused(names, tie_word_embeddings=tied) or ("", "")
        assert "another model's head" in problem and head in problem and "tie_word_embeddings" not in hint


@pytest.mark.parametrize("part", ["_orig_mod.", "_fsdp_wrapped_module._checkpoint_wrapped_module."])
def test_the_parts_of_wrappers_inside_of_names_are_found(part: str):
    inside = {re.sub(r"(layers\.\d\.)", rf"\1{part}", name): shape for name, shape in LLAMA.items()}
    problem, hint = refused(inside) or ("", "")
    assert f"`{part.split('.')[0]}.`" in problem and "re.sub" in hint


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_a_model_saved_with_its_adapter_is_to_be_merged(prefix: str):
    wrapped = {name.replace("q_proj", "q_proj.base_layer"): shape for name, shape in LLAMA.items()}
    wrapped["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = [8, 64]
    for shapes in (wrapped, LLAMA | {"model.layers.0.self_attn.q_proj.lora_A.weight": [8, 64]}):
        problem, hint = refused({f"{prefix}{name}": shape for name, shape in shapes.items()}) or ("", "")
        assert "adapter that is not merged" in problem and "merge_and_unload" in hint


@pytest.mark.parametrize("names", [["consolidated"], ["model-00001-of-00002", "model-00002-of-00002"]])
def test_files_that_transformers_does_not_look_for_are_refused(names: list[str], tmp_path: Path):
    for name in names:
        (tmp_path / f"{name}.safetensors").touch()
    problem, hint = refused(LLAMA, tmp_path) or ("", "")
    assert names[0] in problem and "model.safetensors" in hint
    assert refused(LLAMA, tmp_path, transformers_weights=f"{names[0]}.safetensors") is None


@pytest.mark.parametrize(
    ("name", "shape", "keys"),
    [
        ("model.embed_tokens.weight", [386, 64], "`hidden_size`, `vocab_size`"),
        ("lm_head.weight", [384, 32], "`hidden_size`, `vocab_size`"),
        ("model.layers.1.mlp.up_proj.weight", [128, 64], "`hidden_size`, `intermediate_size`"),
        ("model.layers.1.self_attn.k_proj.weight", [64, 64], "num_key_value_heads"),
        ("model.norm.weight", [32], "`hidden_size`"),
    ],
)
def test_a_misshapen_weight_is_named_with_the_keys_that_it_contradicts(name: str, shape: list[int], keys: str):
    problem, hint = refused(LLAMA | {name: shape}) or ("", "")
    assert f"`{name}` of {'×'.join(map(str, shape))}" in problem and keys in problem
    assert "config.json" in hint


def test_the_size_of_a_head_may_differ_from_the_share_of_the_hidden_size():
    wide = LLAMA | {f"model.layers.{n}.self_attn.{x}_proj.weight": [128, 64] for n in range(2) for x in "q"}
    wide |= {f"model.layers.{n}.self_attn.{x}_proj.weight": [64, 64] for n in range(2) for x in "kv"}
    wide |= {f"model.layers.{n}.self_attn.o_proj.weight": [64, 128] for n in range(2)}
    assert refused(wide, head_dim=32) is None and refused(wide) is not None


@pytest.mark.parametrize(
    ("model_type", "bias"), [("roberta", "lm_head.decoder.bias"), ("bert", "cls.predictions.decoder.bias")]
)
def test_a_bias_that_a_head_has_under_two_names_is_stored_once(model_type: str, bias: str):
    entry = _entry(model_type)
    assert entry and bias in entry["outside"]
    family = _Family(entry, {"model_type": model_type})
    assert family.is_tied_copy(bias, {bias.replace("decoder.bias", "bias"): [8]}) and not family.is_tied_copy(bias, {})
