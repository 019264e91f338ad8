"""Public model families as tiny checkpoints: transformers' own configuration and class, a few thousand weights."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig

from dimba.trainers.tiny import conversations, make_tokenizer

CAUSAL = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "gemma", "gemma2",
    "gemma3_text", "phi", "phi3", "phimoe", "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "gpt_oss", "opt",
    "bloom", "falcon", "mpt", "stablelm", "starcoder2", "cohere", "cohere2", "olmo", "olmo2", "olmo3", "olmoe",
    "granite", "granitemoe", "deepseek_v2", "deepseek_v3", "glm", "glm4", "glm4_moe", "smollm3", "seed_oss", "exaone4",
    "ernie4_5", "nemotron", "persimmon", "codegen", "mamba", "mamba2", "jamba", "falcon_h1", "recurrent_gemma",
    "helium", "biogpt", "xglm", "openai-gpt", "lfm2", "apertus", "arcee", "dots1", "ministral",
)  # fmt: skip
VISION = (
    "gemma3", "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mllama", "llama4", "idefics3", "smolvlm",
    "paligemma", "internvl", "mistral3", "blip-2", "qwen3_5",
)  # fmt: skip
# Model types that are no causal language models, and their class.
OTHERS = {
    "bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM", "modernbert": "ModernBertForMaskedLM",
    "distilbert": "DistilBertForSequenceClassification", "electra": "ElectraForPreTraining",
    "deberta-v2": "DebertaV2ForTokenClassification", "t5": "T5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration", "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel", "whisper": "WhisperForConditionalGeneration", "wav2vec2": "Wav2Vec2ForCTC",
    "clip": "CLIPModel", "qwen3 as a classifier": "Qwen3ForSequenceClassification",
    "llama without a head": "LlamaModel",
}  # fmt: skip

_TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "ffn_dim": 96, "d_ff": 96, "d_kv": 16,
    "word_embed_proj_dim": 64, "n_inner": 96, "rotary_dim": 8, "embedding_size": 64, "attention_types": None,
    "num_layers": 2, "num_heads": 4, "attention_layers": None, "dropout": 0.0, "vocab_size_per_layer_input": 400,
    # Mixtures of experts
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "moe_topk": 2, "intermediate_size_mlp": 96,
    # Attention in low rank, and states
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "state_size": 8, "mamba_d_state": 8, "mamba_d_head": 16, "mamba_n_heads": 8, "mamba_d_ssm": 128,
    "time_step_rank": 4, "mamba_dt_rank": 4, "lru_width": 64, "chunk_size": 32, "mamba_chunk_size": 32,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14, "depth": 2, "embed_dim": 32, "num_heads": 2, "out_hidden_size": 64, "projection_dim": 64,
    "num_global_layers": 1, "vision_output_dim": 64, "text_hidden_size": 64, "encoder_hidden_size": 32,
    "projector_input_dim": 64, "projector_output_dim": 64, "fullatt_block_indexes": [1], "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1], "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1, "attention_dropout": 0,
    "intermediate_layers_indices": [0, 1],
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 64},
    "mllama": {"cross_attention_layers": [1], "vision_output_dim": 64, "num_hidden_layers": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "qwen2_vl": {"embed_dim": 32, "hidden_size": 64},
    "mpt": {"n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "glm4_moe": {"partial_rotary_factor": 0.5},
    "deepseek_v2": {"head_dim": 8, "num_key_value_heads": 4},
    "deepseek_v3": {"head_dim": 8, "num_key_value_heads": 4},
}
_SECTIONS = {  # rotary positions of three axes, and their parts of a head
    "qwen2_vl": [2, 3, 3], "qwen2_5_vl": [2, 3, 3], "qwen3_vl": [2, 3, 3], "qwen3_5": [1, 0, 1],
}  # fmt: skip


def make_family(name: str, folder: Path) -> None:
    """Writes a tiny checkpoint of the family to `folder`, with random weights and a chat tokenizer."""
    texts = [message["content"] for row in conversations() for message in row["messages"]]
    tokenizer = make_tokenizer(texts)
    torch.manual_seed(0)
    config = tiny_config(name.split()[0], len(tokenizer))
    make = AutoModelForImageTextToText if name in VISION else AutoModelForCausalLM
    model = getattr(transformers, OTHERS[name])(config) if name in OTHERS else make.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_config(kind: str, vocabulary: int) -> PreTrainedConfig:
    """The family's own configuration, with small sizes in place of its defaults."""
    default = CONFIG_MAPPING[kind]()
    parts = {part: getattr(default, part, None) for part in getattr(default, "sub_configs", {})}
    sizes = {part: _sizes(value, kind, vocabulary, part) for part, value in parts.items() if value is not None}
    known = {part: {"model_type": value.model_type, **sizes[part]} for part, value in parts.items() if part in sizes}
    own = _sizes(default, kind, vocabulary, "text" if not parts else "whole")
    tokens = [key for key in default.to_dict() if key.endswith(("_token_id", "_token_index")) and key not in own]
    markers = {key: 10 + number for number, key in enumerate(sorted(tokens))} if parts else {}
    config: PreTrainedConfig = type(default)(**{**own, **markers, **known})
    return config


def _sizes(default: PreTrainedConfig, kind: str, vocabulary: int, part: str) -> dict[str, Any]:
    is_text = part in {"text", "text_config", "llm_config", "whole"}
    wanted = {**(_TEXT if is_text else _VISION), "vocab_size": vocabulary}
    found = {key: value for key, value in wanted.items() if _can_set(default, key) and value is not None}
    if part == "whole":
        found = {key: found[key] for key in found if key.endswith("_token_id") or key == "vocab_size"}
    if part in {"text", "text_config"} and kind in _SECTIONS:
        found["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _SECTIONS[kind]}
    own = _OWN.get(kind, {})
    return {**found, **{key: value for key, value in own.items() if hasattr(default, key)}}


def _can_set(default: PreTrainedConfig, key: str) -> bool:
    computed = getattr(type(default), key, None)
    return hasattr(default, key) and not (isinstance(computed, property) and computed.fset is None)
