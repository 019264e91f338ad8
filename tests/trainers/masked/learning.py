"""A small task that masked-diffusion models learn by GRPO within a minute: the larger of two numbers."""

import json
import random
import signal
from itertools import permutations
from pathlib import Path
from typing import Any

from tests.conftest import write_rows
from tests.trainers.learning import World
from tests.trainers.masked.bases import make_masked

_SAMPLED = ("--max-completion-length", "4", "--block-length", "4", "--max-length", "64", "--device", "cpu")
_HELD_OUT = 300


def larger_of_two(folder: Path, kind: str, seed: int) -> World:
    """A policy that answers with one of two numbers by chance, or with a digit of each; rows that want the larger."""
    rng = random.Random(seed)
    pairs = list(permutations(range(10, 100), 2))
    rng.shuffle(pairs)
    sizes = {} if kind == "dimba" else {"hidden_size": 128}
    base = make_masked(folder / "base", kind, seed=seed, texts=["1?2="], digits_apart=True, **sizes)
    either = [{"question": f"{one}?{two}=", "answer": str(rng.choice((one, two)))} for one, two in pairs[:3000]]
    policy = _fine_tune(base, folder / "policy", write_rows(folder / "either.jsonl", either), seed)
    larger = [{"question": f"{one}?{two}=", "answer": str(max(one, two))} for one, two in pairs[3000:6000]]
    return World(policy, write_rows(folder / "larger.jsonl", larger))


def _fine_tune(base: Path, out: Path, rows: Path, seed: int) -> Path:
    from dimba.objectives.sft import SFT
    from dimba.trainers.objectives.sft.train import train

    named = {"base-checkpoint": base, "dataset": rows, "output-dir": out, "seed": seed}
    settings = {"batch-size": 64, "grad-accumulation-steps": 1, "max-steps": 250, "learning-rate": 2e-3}
    flags = {**named, **settings, "max-length": 64, "end-tail": 8, "save-steps": 1000}
    argv = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    assert train(SFT.parse([*argv, "--trust-remote-code", "--device", "cpu"])) == 0
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return out


def learnt(world: World, out: Path, *flags: str) -> float:
    """The gain in the share of held-out rows that the policy gets right."""
    from dimba.objectives.grpo import GRPO
    from dimba.trainers.objectives.grpo.train import train

    rows = [json.loads(line) for line in world.rows.read_text(encoding="utf-8").splitlines()]
    data = write_rows(out.with_suffix(".jsonl"), rows[:-_HELD_OUT])
    named = ["--base-checkpoint", str(world.policy), "--dataset", str(data), "--output-dir", str(out)]
    step = ("--batch-size", "64", "--grad-accumulation-steps", "1", "--max-steps", "200", "--learning-rate", "1e-4")
    options = GRPO.parse([*named, *_SAMPLED, *step, "--reward", "numeric", "--trust-remote-code", *flags])
    assert train(options) == 0
    return right(out, rows[-_HELD_OUT:]) - right(world.policy, rows[-_HELD_OUT:])


def right(policy: Path, rows: list[dict[str, str]]) -> float:
    """The share of the rows that the policy's likeliest completions get right."""
    import torch
    from transformers import AutoTokenizer

    from dimba.trainers.models.families import auto_class, family_at
    from dimba.trainers.models.masked_diffusion.sampler import Unmasking, sample

    tokenizer: Any = AutoTokenizer.from_pretrained(policy, trust_remote_code=True)
    model = auto_class(family_at(str(policy))).from_pretrained(policy, trust_remote_code=True).eval()
    chats = [[{"role": "user", "content": row["question"]}] for row in rows]
    prompts = [tokenizer.apply_chat_template(each, add_generation_prompt=True)["input_ids"] for each in chats]
    with torch.inference_mode():
        found = sample(model, prompts, Unmasking(new_tokens=4, block=4, steps=4), ends=[tokenizer.eos_token_id])
    texts = [tokenizer.decode(each, skip_special_tokens=True) for each in found.tokens]
    return sum(text == row["answer"] for text, row in zip(texts, rows, strict=True)) / len(rows)
