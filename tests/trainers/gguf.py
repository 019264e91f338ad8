"""Tiny models with tokenizers as public families have them, for the tests of GGUF."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from dimba.trainers.export.gguf import pretokenizers
from dimba.trainers.export.gguf.probes import PROBES
from dimba.trainers.models.saving import apply_umask
from dimba.trainers.tiny import SPECIAL, TEMPLATE, conversations

TEXTS = [*PROBES, *(message["content"] for row in conversations() for message in row["messages"])]


def split_by(pattern: str) -> Any:
    pieces = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(pieces: Any, *, ignore_merges: bool = False, begins: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that splits text as `pieces` do; with `begins`, it begins a text with a token."""
    inner = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    inner.pre_tokenizer, inner.decoder = pieces, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    if begins:
        begin = ("<|begin|>", inner.token_to_id("<|begin|>"))
        inner.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[begin])
    return _wrapped(inner, begin="<|begin|>", end="<|end|>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """A BPE tokenizer with spaces as `▁` and characters that it lacks as bytes: Llama 2's and Mistral's."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    ours = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=700, special_tokens=ours))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()])
    return _wrapped(inner, begin="<s>", end="</s>")


def _wrapped(inner: Tokenizer, *, begin: str, end: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=begin, eos_token=end, pad_token=end)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


_SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip

FAMILIES: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], Callable[..., Any]]] = {
    "llama": (
        lambda: byte_level(split_by(pretokenizers.LLAMA_3), ignore_merges=True, begins=True),
        lambda **words: LlamaConfig(**_SHAPE, **words),
    ),
    "qwen3": (
        lambda: byte_level(split_by(pretokenizers.QWEN_2)),
        lambda **words: Qwen3Config(**_SHAPE, head_dim=16, **words),
    ),
    "gpt2": (
        lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
        lambda **words: GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=512, **words),
    ),
    "mistral": (sentencepiece, lambda **words: MistralConfig(**_SHAPE, head_dim=16, **words)),
}  # fmt: skip


STOPS = 333  # a second end token of every family, which its name does not show


def make_family(name: str, folder: Path, *, peaked: float = 4.0) -> Path:
    """Writes a random model of the family, whose outputs are far enough apart to have a likeliest token."""
    make, configure = FAMILIES[name]
    tokenizer = make()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configure(vocab_size=len(tokenizer), **ends))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, STOPS]
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(peaked)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    apply_umask(folder)
    return folder
