"""How far GGUF files in llama.cpp agree with the models that they were made of, by type and family.

Small models of several families learn a page of this documentation, so that their distributions are as decided as a
trained model's; the text is then one that they know, and one that they do not. `docs/gguf.md` has the results.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from dimba.trainers.export.gguf.convert import convert
from dimba.trainers.export.gguf.engine import LlamaModel
from dimba.trainers.export.gguf.kinds import KINDS
from dimba.trainers.export.gguf.processes import follow
from dimba.trainers.tiny import make_tokenizer

DOCS = Path(__file__).resolve().parents[2] / "docs"
KNOWN, UNKNOWN = ("memory.md",), ("image.md",)
LENGTH = 128
_SHAPE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
FAMILIES: dict[str, Any] = {
    "llama": lambda **words: LlamaConfig(**_SHAPE, **words),
    "qwen2": lambda **words: Qwen2Config(**_SHAPE, **words),
    "qwen3": lambda **words: Qwen3Config(**_SHAPE, head_dim=64, **words),
    "gemma3": lambda **words: Gemma3TextConfig(**_SHAPE, head_dim=64, query_pre_attn_scalar=64, **words),
    "gpt2": lambda **words: GPT2Config(n_embd=256, n_layer=3, n_head=4, n_positions=512, **words),
}
Rows = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--types", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    print(f"| family | type | text | likeliest tokens equal | mean KL | largest KL |\n{'| --- ' * 6}|")
    with tempfile.TemporaryDirectory() as folder:
        for family in options.families:
            measure(family, options.types, options.steps, Path(folder) / family)


def measure(family: str, types: Sequence[str], steps: int, folder: Path) -> None:
    tokenizer = make_tokenizer([text(KNOWN), text(UNKNOWN)], size=1024)
    known, unknown = (rows(tokenizer, names) for names in (KNOWN, UNKNOWN))
    model = trained(FAMILIES[family](vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2), known, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = {"known": known[:12], "unknown": unknown[:12]}
    ours = {name: [logits(model, row) for row in each] for name, each in texts.items()}
    for kind in types:
        with LlamaModel(made(folder, kind)) as other:
            for name, each in texts.items():
                agreement, mean, largest = compared(ours[name], [other.logits(row) for row in each])
                print(f"| {family} | {kind} | {name} | {agreement:.1%} | {mean:.1g} | {largest:.1g} |", flush=True)


def made(folder: Path, kind: str) -> Path:
    """The GGUF of this type; the smaller ones are quantised from one file in float32, as an export does it."""
    file, exact = folder / f"{kind}.gguf", folder / "f32.gguf"
    if KINDS[kind].number is None:
        convert(folder, file, kind, lambda _line: None)
        return file
    if not exact.is_file():
        convert(folder, exact, "f32", lambda _line: None)
    list(follow(["quantise", str(exact), str(file), str(KINDS[kind].number)], "llama.cpp's quantiser failed"))
    return file


def text(names: Sequence[str]) -> str:
    return "\n".join((DOCS / name).read_text(encoding="utf-8") for name in names)


def rows(tokenizer: Any, names: Sequence[str]) -> Rows:
    ids = tokenizer.encode(text(names))
    return [ids[at : at + LENGTH] for at in range(0, len(ids) - LENGTH, LENGTH)]


def trained(config: PreTrainedConfig, known: Rows, steps: int) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for batch in batches(known, steps):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    print(f"<!-- {config.model_type}: loss {loss.item():.2f} after {steps} steps -->", flush=True)
    return model.eval()


def batches(known: Rows, steps: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield torch.tensor([known[at] for at in torch.randint(len(known), (4,), generator=generator)])


def logits(model: Any, row: list[int]) -> Any:
    with torch.no_grad():
        return model(torch.tensor([row])).logits[0].double().numpy()


def compared(ours: list[Any], theirs: list[Any]) -> tuple[float, float, float]:
    """The share of equal likeliest tokens, and the mean and the largest KL divergence in nats."""
    one, other = np.concatenate(ours), np.concatenate(theirs).astype(np.float64)
    log_p, log_q = (each - np.logaddexp.reduce(each, axis=1, keepdims=True) for each in (one, other))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    assert not math.isnan(divergence.sum())
    return float(np.mean(one.argmax(1) == other.argmax(1))), float(divergence.mean()), float(divergence.max())


if __name__ == "__main__":
    main()
