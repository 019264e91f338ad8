"""The gain of packing: real tokens per second with and without it, at batch 8, on the CPU.

    python scripts/bench/packing.py [FILE]

FILE is a .json array of instruction/input/output rows; without it, rows are generated. Both train the same Llama of
17 M parameters on the same rows, in turn. The gain is compared with the padding that packing avoids.
"""

import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dimba.objectives.sft import SFT
from dimba.trainers.data.loading import as_dataset, load_data
from dimba.trainers.data.packing import collate_packed, collate_padded
from scripts.bench.data import made_up

BATCH, BATCHES, ROUNDS = 8, 4, 3


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")) if len(sys.argv) > 1 else made_up(1000)
    with tempfile.TemporaryDirectory() as name:
        base, data = make_base(Path(name), rows)
        flags = ["--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", "unused"]
        loaded = load_data(SFT.parse(flags), lambda _rows: None)
        examples = as_dataset(loaded.train).shuffle(seed=0)
        batches = [[examples[n * BATCH + row] for row in range(BATCH)] for n in range(BATCHES)]
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base)
    padded, packed = partial(collate_padded, pad_id=0), partial(collate_packed, pad_id=0, max_length=1024)
    real = sum(int(padded(each)["tokens"]) for each in batches)
    area = sum(padded(each)["input_ids"].numel() for each in batches)
    train(model, padded(batches[0]))  # the first is slower
    ratios = []
    for _ in range(ROUNDS):
        # In turn batch by batch, as the machine's speed varies.
        seconds = [[train(model, collate(each)) for collate in (padded, packed)] for each in batches]
        ratios.append(sum(slow for slow, _ in seconds) / sum(quick for _, quick in seconds))
    gain, saved = statistics.median(ratios), area / real
    print(f"{sum(each.numel() for each in model.parameters()) / 1e6:.0f} M parameters, batch {BATCH}")
    print(f"padded over real tokens: {saved:.2f}")
    print(f"real tokens per second, packed over padded: {gain:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"share of the possible gain: {gain / saved:.2f} (target 0.85)")


def train(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of a forward and a backward pass over a collated batch."""
    batch.pop("tokens")
    began = time.perf_counter()
    model(**batch, use_cache=False).loss.backward()
    model.zero_grad()
    return time.perf_counter() - began


def make_base(folder: Path, rows: list[dict[str, str]]) -> tuple[Path, Path]:
    """Write a checkpoint with a vocabulary of the rows, and the rows; returns both paths."""
    from dimba.trainers.tiny import make_checkpoint

    texts = [text for row in rows for text in row.values()]
    heads = {"num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": True}
    size: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, **heads}
    make_checkpoint(folder / "base", texts, vocabulary=8192, **size)
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "base", folder / "rows.json"


if __name__ == "__main__":
    main()
