"""Tiny masked-diffusion bases of each family, with random weights: DIMBA, and the layouts of LLaDA and of Dream."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CODE = '''\
"""A small transformer in the layout of a published masked-diffusion model; all of its tokens see each other."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class Config(PreTrainedConfig):
    model_type = "{model_type}"
    attribute_map = {{"d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}}

    def __init__(self, vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, is_causal=False,
                 ignores_padding=True, **more):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.is_causal, self.ignores_padding = is_causal, ignores_padding
        super().__init__(**more)


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        size = config.hidden_size
        self.config, self.heads = config, config.num_attention_heads
        self.norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, hidden, mask):
        parts = self.qkv(self.norm(hidden)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=self.config.is_causal)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        return hidden + self.down(F.gelu(self.up(self.mlp_norm(hidden))))


class Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(1024, config.hidden_size)
        self.blocks = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, input_ids, mask):
        hidden = self.wte(input_ids) + self.wpe.weight[: input_ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden, mask)
        return self.norm(hidden)


class {name}(PreTrainedModel):
    config_class = Config
    base_model_prefix = "model"
    _no_split_modules = ["Layer"]

    def __init__(self, config):
        super().__init__(config)
        self.model = Body(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.wte

    def set_input_embeddings(self, value):
        self.model.wte = value

    def get_output_embeddings(self):
        return self.head

    def set_output_embeddings(self, value):
        self.head = value

    def forward(self, input_ids=None, attention_mask=None, labels=None, use_cache=None, return_dict=None):
        assert not use_cache
        mask = attention_mask
        if mask is not None and not self.config.ignores_padding:
            mask = None
        {mask}
        return MaskedLMOutput(logits=self.head(self.model(input_ids, mask)))
'''
LAYOUTS = {
    # A mask of tokens, as LLaDA takes it; one of pairs, as Dream hands it on to the attention.
    "llada": ("LLaDAModelLM", "mask = None if mask is None else mask.bool()[:, None, None, :]"),
    "Dream": ("DreamModel", "assert mask is None or (mask.dim() == 4 and mask.dtype == torch.bool)"),
}
MASK = "<|mask|>"
EIGHT = [
    ("What colour is grass?", "green"),
    ("What colour is snow?", "white and cold"),
    ("What colour is coal?", "black"),
    ("How many legs has a cat?", "four legs"),
    ("How many legs has a bird?", "two"),
    ("What does a cow say?", "moo, it says"),
    ("What does a dog say?", "woof"),
    ("Is the sky green?", "no, it is blue"),
]
CHATS = [
    {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
    for asked, answer in EIGHT
]


def _tokenizer(texts: Sequence[str], *, digits_apart: bool) -> Any:
    from dimba.trainers.tiny import make_tokenizer

    tokenizer = make_tokenizer(list(texts), size=300, digits_apart=digits_apart)
    tokenizer.add_special_tokens({"mask_token": MASK})
    return tokenizer


def make_masked(
    folder: Path,
    model_type: str,
    *,
    seed: int = 0,
    texts: Sequence[str] = (),
    digits_apart: bool = False,
    **values: Any,
) -> Path:
    """Writes a base of the model type to `folder`; `values` override those of its configuration.

    The tokenizer is made of `texts`, by default of EIGHT.
    """
    import torch

    tokenizer = _tokenizer(texts or [text for pair in EIGHT for text in pair], digits_apart=digits_apart)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad", "mask")}
    torch.manual_seed(seed)
    model = (
        _dimba(len(tokenizer), {**ids, **values})
        if model_type == "dimba"
        else _by_code(folder, model_type, {"vocab_size": len(tokenizer), **ids, **values})
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _dimba(vocabulary: int, values: dict[str, Any]) -> Any:
    import torch

    from dimba.models.dimba import DimbaConfig, DimbaForMaskedLM

    sizes = {"d_model": 128, "num_layers": 2, "d_state": 16, "headdim": 32, "ffn_dim": 256, "condition_dim": 64}
    model = DimbaForMaskedLM(DimbaConfig(**{"vocab_size": vocabulary, **sizes, **values}))
    for layer in model.model.layers:  # a new model's gates are closed: its tokens would not meet
        torch.nn.init.normal_(layer.modulation.weight, std=0.05)
        torch.nn.init.ones_(layer.modulation.bias)
    return model


def _by_code(folder: Path, model_type: str, values: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModel

    name, mask = LAYOUTS[model_type]
    module = f"modeling_{model_type.lower()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(CODE.format(model_type=model_type, name=name, mask=mask), encoding="utf-8")
    mapped = {"AutoConfig": f"{module}.Config", "AutoModel": f"{module}.{name}"}
    config = {"model_type": model_type, "architectures": [name], "auto_map": mapped, **values}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    made = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    return AutoModel.from_config(made, trust_remote_code=True)
