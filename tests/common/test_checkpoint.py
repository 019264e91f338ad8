"""What a checkpoint's folder says about itself, without torch: kind, adapter, quantisation, positions, tokens."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from dimba.common.checkpoint import (
    Checkpoint,
    check_base,
    count_tokens,
    kind_of,
    positions_of,
    quantization_of,
    read_checkpoint,
    refusal_of,
    tokenizer_needs,
    tokenizer_refusal,
)
from dimba.common.checkpoint.tokens import _ends, absent_tokens
from dimba.common.errors import BadInput

Header = dict[str, dict[str, Any]]


def tensors(**shapes: tuple[str, list[int]]) -> Header:
    """Headers by name, `__` for a dot: (dtype, shape) each."""
    return {
        name.replace("__", "."): {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for name, (dtype, shape) in shapes.items()
    }


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "max_position_embeddings": 64}
WEIGHTS = tensors(model__embed_tokens__weight=("F32", [8, 2]), lm_head__weight=("F32", [8, 2]))
PACKED = tensors(model__layers__0__mlp__up_proj__weight=("U8", [8, 1]))


def folder(path: Path, config: dict[str, Any], header: Header = WEIGHTS, **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    for name, value in {"config": config, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def described(config: dict[str, Any], header: Header = WEIGHTS) -> Checkpoint:
    return Checkpoint(Path("/nowhere"), config, header)


def config(model_type: str, architecture: str | None, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, "architectures": [architecture] if architecture else None, **more}


@pytest.mark.parametrize(
    ("model_type", "architecture", "more"),
    [
        ("llama", "LlamaForCausalLM", {}),
        ("llama", None, {}),
        ("llama", "LlamaModel", {}),
        ("gpt2", "GPT2LMHeadModel", {}),
        ("gpt2", "GPT2DoubleHeadsModel", {}),
        ("openai-gpt", "OpenAIGPTLMHeadModel", {}),
        ("rwkv", "RwkvForCausalLM", {}),
        ("bert", "BertLMHeadModel", {"is_decoder": True}),
        ("roberta", "RobertaForCausalLM", {"is_decoder": True}),
        ("bart", "BartForCausalLM", {"is_encoder_decoder": False}),
        ("gpt_neox", "GPTNeoXForCausalLM", {"is_decoder": False}),
        ("modernbert-decoder", "ModernBertDecoderForCausalLM", {}),
        ("gemma3", "Gemma3ForConditionalGeneration", {"text_config": {"use_bidirectional_attention": False}}),
        ("gemma4", "Gemma4ForConditionalGeneration", {"text_config": {"use_bidirectional_attention": "vision"}}),
        ("gemma3_text", "Gemma3ForCausalLM", {}),
        ("llama4", "Llama4ForConditionalGeneration", {}),
        ("chatglm", "ChatGLMModel", {"auto_map": {"AutoModelForCausalLM": "modeling.ChatGLM"}}),
        ("of_tomorrow", "TomorrowForCausalLM", {}),
        ("internlm2", "InternLM2ForCausalLM", {"auto_map": {"AutoModelForCausalLM": "modeling.InternLM2"}}),
    ],
)
def test_causal_language_models_are_not_refused(model_type: str, architecture: str | None, more: dict[str, Any]):
    assert kind_of(config(model_type, architecture, **more)).refusal is None


@pytest.mark.parametrize(
    ("model_type", "architecture", "more", "why"),
    [
        ("llama", "LlamaForSequenceClassification", {}, "a classifier (LlamaForSequenceClassification)"),
        ("qwen2", "Qwen2ForTokenClassification", {}, "a token classifier"),
        ("qwen2", "Qwen2ForRewardModel", {}, "a reward model"),
        ("internlm2", "InternLM2ForRewardModel", {"auto_map": {"AutoModel": "modeling.R"}}, "a reward model"),
        ("qwen2", "Qwen2ForProcessRewardModel", {"auto_map": {"AutoModel": "modeling.R"}}, "a reward model"),
        ("llama", "LlamaForQuestionAnswering", {}, "a question-answering model"),
        ("bert", "BertForMaskedLM", {}, "an encoder"),
        ("bert", "BertForPreTraining", {}, "an encoder"),
        ("bert", "BertModel", {}, "an encoder"),
        ("bert", None, {}, "an encoder"),
        ("bert", "BertLMHeadModel", {}, "`is_decoder` is not true"),
        ("xlm-roberta", "XLMRobertaForSequenceClassification", {}, "a classifier"),
        ("distilbert", "DistilBertForMaskedLM", {}, "an encoder"),
        ("modernbert", "ModernBertModel", {}, "an encoder"),
        ("deberta-v2", "DebertaV2ForSequenceClassification", {}, "a classifier"),
        ("gemma3_text", "Gemma3TextModel", {"use_bidirectional_attention": True}, "an encoder"),
        ("t5", "T5ForConditionalGeneration", {}, "an encoder-decoder"),
        ("t5", None, {}, "an encoder-decoder"),
        ("bart", "BartForConditionalGeneration", {}, "an encoder-decoder"),
        ("bart", "BartModel", {}, "an encoder-decoder"),
        ("marian", "MarianMTModel", {}, "an encoder-decoder"),
        ("whisper", "WhisperForConditionalGeneration", {}, "an encoder-decoder"),
        ("xlnet", "XLNetLMHeadModel", {}, "attend to later ones"),
        ("clip", "CLIPModel", {}, "does not know"),
        ("vit", "ViTForImageClassification", {}, "a classifier"),
        ("wav2vec2", "Wav2Vec2ForCTC", {}, "a speech recogniser"),
        ("llava", "LlavaForConditionalGeneration", {}, "images and text whose text part transformers does not load"),
        ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", {}, "AutoModelForCausalLM does not know `qwen2_5_vl`"),
        ("qwen2_audio", "Qwen2AudioForConditionalGeneration", {}, "not a causal language model"),
        ("gemma3n", "Gemma3nForConditionalGeneration", {}, "needs timm"),
    ],
)
def test_other_models_are_refused_as_what_they_are(
    model_type: str, architecture: str | None, more: dict[str, Any], why: str
):
    refusal = kind_of(config(model_type, architecture, **more)).refusal
    assert refusal and why in f"{refusal.problem}, not a causal language model" and "ForCausalLM" in refusal.hint


def test_what_is_loaded_of_a_multimodal_model_is_known():
    found = kind_of(config("gemma3", "Gemma3ForConditionalGeneration"))
    assert (found.sees, found.text_alone) == (("images",), False)
    assert kind_of(config("llama4", "Llama4ForConditionalGeneration")).text_alone
    assert not kind_of(LLAMA).sees


def test_a_missing_model_type_is_reported_and_one_of_the_checkpoints_own_code_is_no_concern_of_the_library():
    assert "no `model_type`" in kind_of({"architectures": ["LlamaForCausalLM"]}).doubt
    assert kind_of(config("of_tomorrow", None)).library_type == "of_tomorrow"
    own = kind_of(config("of_tomorrow", None, auto_map={"AutoConfig": "own.Config"}))
    assert not own.doubt and not own.library_type
    assert not kind_of(LLAMA).doubt


def test_a_model_type_that_the_installed_transformers_does_not_know_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(config("of_tomorrow", "TomorrowForCausalLM")), encoding="utf-8")
    with pytest.raises(BadInput, match=r"has `model_type: of_tomorrow`, which transformers [0-9.]+ does not know"):
        check_base(tmp_path, "full")
    own = config("of_tomorrow", "TomorrowForCausalLM", auto_map={"AutoConfig": "own.Config"})
    (tmp_path / "config.json").write_text(json.dumps(own), encoding="utf-8")
    check_base(tmp_path, "full")


ADAPTER = {"base_model_name_or_path": "owner/base", "peft_type": "LORA"}


def test_an_adapter_beside_a_model_is_refused_with_the_ways_out(tmp_path: Path):
    found = refusal_of(read_checkpoint(folder(tmp_path / "base", LLAMA, adapter_config=ADAPTER)))
    assert found and found.problem == "holds an adapter on owner/base beside a model"
    assert "merge" in found.hint and "`owner/base`" in found.hint and f"mv {tmp_path}/base/adapter_*" in found.hint
    with pytest.raises(BadInput, match="holds an adapter on owner/base"):
        check_base(tmp_path / "base", "full")


def test_an_adapter_does_not_name_its_own_folder_as_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    base = folder(tmp_path / "base", LLAMA, adapter_config={"base_model_name_or_path": "base"})
    found = refusal_of(read_checkpoint(base))
    assert found and "`base`" not in found.hint and "mkdir" in found.hint


def with_quantization(**settings: Any) -> Checkpoint:
    return described({**LLAMA, "quantization_config": settings}, WEIGHTS | PACKED)


@pytest.mark.parametrize(
    ("settings", "label", "package"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ, 4 bit", "optimum and gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "AWQ, 4 bit", "gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors", "compressed_tensors"),
        ({"quant_method": "hqq"}, "HQQ", "hqq"),
        ({"quant_method": "aqlm"}, "AQLM", "aqlm"),
        ({"quant_method": "torchao"}, "torchao", "torchao"),
        ({"quant_method": "eetq"}, "EETQ", "kernels"),
    ],
)
def test_weights_that_need_a_package_are_refused_without_it(settings: dict[str, Any], label: str, package: str):
    found = quantization_of(with_quantization(**settings))
    assert found and found.label == label
    refusal = found.refusal("lora", lambda _name: False)
    assert refusal and f"({label}), which needs {package}" in refusal.problem and "quantised from" in refusal.hint
    assert found.refusal("lora", lambda _name: True) is None
    assert found.refusal("full", lambda _name: True) and found.refusal("qlora", lambda _name: True)


@pytest.mark.parametrize(
    "method", ["fp8", "mxfp4", "fbgemm_fp8", "bitnet", "auto-round", "higgs", "nvfp4", "of_tomorrow"]
)
def test_weights_that_nothing_trains_are_refused_with_another_way(method: str):
    found = quantization_of(with_quantization(quant_method=method))
    refusal = found and found.refusal("lora", lambda _name: True)
    assert refusal and "no method trains" in refusal.problem
    assert ("from_pretrained('/nowhere'" in refusal.hint) == (method in ("fp8", "mxfp4"))


def test_a_base_of_bitsandbytes_takes_adapters_and_is_refused_in_full():
    for bits in (4, 8):
        found = quantization_of(with_quantization(quant_method="bitsandbytes", **{f"load_in_{bits}bit": True}))
        assert found and found.label == f"bitsandbytes, {bits} bit"
        assert not found.refusal("lora", lambda _name: True) and not found.refusal("qlora", lambda _name: True)
        refusal = found.refusal("full", lambda _name: True)
        assert refusal and "method: lora" in refusal.hint


def test_complete_weights_that_only_config_json_calls_quantised_are_refused():
    for settings in ({"load_in_4bit": True}, {"quant_method": "bitsandbytes"}):
        found = quantization_of(described({**LLAMA, "quantization_config": settings}))
        refusal = found and found.refusal("lora", lambda _name: True)
        assert refusal and "are not packed" in refusal.problem and "remove `quantization_config`" in refusal.hint


def test_the_configuration_of_a_text_part_and_of_mlx_count_as_well():
    inner = quantization_of(described({**LLAMA, "text_config": {"quantization_config": {"quant_method": "fp8"}}}))
    assert inner and inner.method == "fp8"
    mlx = quantization_of(described({**LLAMA, "quantization": {"group_size": 64, "bits": 4}}))
    assert mlx and mlx.label == "MLX, 4 bit"


def test_bitnet_that_is_quantised_while_it_trains_is_no_packed_model():
    online = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    assert quantization_of(with_quantization(**online)) is None


@pytest.mark.parametrize(
    ("name", "dtype", "method"),
    [
        ("qweight", "I32", "gptq"),
        ("qzeros", "I32", "gptq"),
        ("weight.absmax", "U8", "bitsandbytes_4bit"),
        ("weight.quant_state.bitsandbytes__nf4", "U8", "bitsandbytes_4bit"),
        ("SCB", "I8", "bitsandbytes_8bit"),
        ("weight_packed", "I32", "compressed-tensors"),
        ("weight_scale_inv", "F8_E4M3", "fp8"),
        ("weight", "I8", "integers"),
    ],
)
def test_names_of_packed_tensors_betray_undeclared_quantisation(name: str, dtype: str, method: str):
    header = {
        **WEIGHTS,
        f"model.layers.0.mlp.up_proj.{name}": {"dtype": dtype, "shape": [4, 2], "data_offsets": [0, 0]},
    }
    found = quantization_of(described(LLAMA, header))
    assert found and found.method == method and not found.declared
    refusal = found.refusal("lora", lambda _name: True)
    assert refusal and "no `quantization_config` in config.json" in refusal.problem


def test_an_older_file_beside_the_weights_names_the_scheme(tmp_path: Path):
    header = {**WEIGHTS, "model.layers.0.x": {"dtype": "I32", "shape": [4, 2], "data_offsets": [0, 0]}}
    found = quantization_of(read_checkpoint(folder(tmp_path / "a", LLAMA, header, quant_config={"w_bit": 4})))
    assert found and (found.method, found.label) == ("awq", "AWQ, 4 bit")
    assert quantization_of(read_checkpoint(folder(tmp_path / "b", LLAMA, quant_config={"w_bit": 4}))) is None


@pytest.mark.parametrize(
    ("settings", "header", "count"),
    [
        ({"model_type": "gpt2", "n_positions": 128}, tensors(transformer__wpe__weight=("F32", [128, 2])), 128),
        ({"model_type": "gpt2"}, tensors(wpe__weight=("F32", [128, 2])), 128),
        (
            {"model_type": "opt", "max_position_embeddings": 64},
            tensors(a__embed_positions__weight=("F32", [66, 2])),
            64,
        ),
        ({"model_type": "opt"}, tensors(a__embed_positions__weight=("F32", [66, 2])), 64),
        ({"model_type": "biogpt", "max_position_embeddings": 64}, tensors(x__weight=("F32", [66, 2])), 64),
        ({"model_type": "gptj", "n_positions": 64}, {}, 64),
        ({"model_type": "codegen", "n_positions": 64}, {}, 64),
        ({"model_type": "new", "max_position_embeddings": 64}, tensors(a__wpe__weight=("F32", [64, 2])), 64),
        (
            {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1},
            tensors(roberta__embeddings__position_embeddings__weight=("F32", [514, 2])),
            512,
        ),
    ],
)
def test_rows_beyond_the_learned_positions_are_refused(settings: dict[str, Any], header: Header, count: int):
    found = positions_of(described(settings, header))
    assert found and (found.count, found.fixed) == (count, True)
    refusal = found.refusal(count + 1)
    assert refusal and f"`training.max_length: {count}`" in refusal.hint
    assert found.refusal(count) is None and not found.warning(count + 1)


@pytest.mark.parametrize(
    "header",
    [
        WEIGHTS,
        tensors(vision_tower__embeddings__position_embedding__weight=("F32", [4, 2])),
        tensors(vision_model__embed_positions__weight=("F32", [4, 2])),
    ],
)
def test_rotary_models_warn_beyond_their_context(header: Header):
    found = positions_of(described(LLAMA, header))
    assert found and not found.fixed and found.refusal(65) is None
    assert "context of 64 tokens" in found.warning(65) and not found.warning(64)


def test_a_model_without_a_number_of_positions_has_none():
    assert positions_of(described({"model_type": "mamba"})) is None


def tokenizer(vocabulary: Any, *added: int) -> dict[str, Any]:
    return {"added_tokens": [{"id": each, "content": f"<{each}>"} for each in added], "model": {"vocab": vocabulary}}


@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        ({"tokenizer": tokenizer({"a": 0, "b": 6})}, 7),
        ({"tokenizer": tokenizer({"a": 0, "b": 6}, 7, 9)}, 10),
        ({"tokenizer": tokenizer([["a", 0.0], ["b", -1.0]], 7)}, 8),
        ({"tokenizer": tokenizer({"a": 7}), "tokenizer_config": {"added_tokens_decoder": {"8": {}}}}, 9),
        ({"tokenizer": tokenizer({"a": 7}), "added_tokens": {"<pad>": 8}}, 9),
        ({"vocab": {"a": 0, "b": 8}}, 9),
        ({"vocab": {"a": 0, "b": 7}, "tokenizer_config": {"pad_token": "<pad>", "eos_token": "b"}}, 9),
        ({"tokenizer": tokenizer({"é": 7}), "special_tokens_map": {"pad_token": "<p>", "eos_token": "é"}}, 9),
        ({"tokenizer": tokenizer({"a": 7}), "tokenizer_config": {"additional_special_tokens": ["x", "y", "a"]}}, 10),
        ({"tokenizer": tokenizer({"a": 7}), "tokenizer_config": {"extra_special_tokens": {"image": "<i>"}}}, 9),
        ({"tokenizer": tokenizer({"a": 7}), "added_tokens": {"<i>": 8}, "tokenizer_config": {"pad_token": "<i>"}}, 9),
    ],
)
def test_tokens_are_counted_against_the_rows(tmp_path: Path, files: dict[str, Any], tokens: int):
    found = count_tokens(read_checkpoint(folder(tmp_path / "base", LLAMA, **files)))
    assert found and (found.tokens, found.rows, found.missing_rows) == (tokens, 8, max(0, tokens - 8))


def test_the_ends_of_a_long_tokenizer_are_enough():
    model = {"type": "BPE", "vocab": {"a": 0, '"}': 1, "z": 41}, "merges": [["a", "b"]]}
    for indent in (None, 2):
        text = json.dumps({"version": "1.0", **tokenizer({}, 42, 43), "model": model}, indent=indent)
        found = _ends(text.encode())
        assert found and found["model"]["vocab"] == {"": 41} and found["added_tokens"][-1]["id"] == 43


def test_a_long_vocabulary_with_scores_is_counted():
    texts = ["<unk>", '",-1]', "\\", '\\"', "[", "é", "z"]
    model = {"type": "Unigram", "unk_id": 0, "vocab": [[text, -n / 3] for n, text in enumerate(texts)]}
    for indent in (None, 2):
        found = _ends(json.dumps({**tokenizer({}, 7), "model": model}, indent=indent).encode())
        assert found and found["model"]["vocab"] == {"": 6} and found["added_tokens"][0]["id"] == 7


def test_a_trainer_refuses_what_the_plan_refuses(tmp_path: Path):
    base = folder(tmp_path / "base", {**LLAMA, "architectures": ["LlamaForSequenceClassification"]})
    with pytest.raises(BadInput, match=r"--base-checkpoint: .*base is a classifier"):
        check_base(base, "lora", 64)
    base = folder(tmp_path / "base", {"model_type": "gpt2", "n_positions": 16}, tensors(wpe__weight=("F32", [16, 2])))
    with pytest.raises(BadInput, match="learned positions for 16 tokens") as error:
        check_base(base, "lora", 17)
    assert "`--max-length 16`" in error.value.hint
    check_base(base, "lora", 16)
    check_base(tmp_path / "none", "lora", 16)  # broken folders are reported by others


@pytest.mark.parametrize(("start", "package"), [(b"\n\x0e", "sentencepiece and protobuf"), (b"IQ== 0", "tiktoken")])
def test_a_tokenizer_that_needs_its_library_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, start: bytes, package: str
):
    (tmp_path / "tokenizer.model").write_bytes(start)
    found = tokenizer_refusal(tmp_path, tokenizer_needs(tmp_path), lambda _name: False)
    assert found and package in found.problem and "AutoTokenizer" in found.hint
    assert tokenizer_refusal(tmp_path, tokenizer_needs(tmp_path), lambda _name: True) is None
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert tokenizer_needs(tmp_path) == ()


def test_tokens_are_looked_for_in_all_files_of_the_tokenizer(tmp_path: Path):
    wanted = ("<a>", "é", "<added>", "<none>")
    assert absent_tokens(tmp_path, wanted) == ()  # nothing that tells
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"<a>": 0, "\\u00e9": 1}}}', encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text('{"<added>": 2}', encoding="utf-8")
    assert absent_tokens(tmp_path, wanted) == ("<none>",)
