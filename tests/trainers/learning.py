"""Two small tasks that GRPO learns within a minute: sums, and polite endings."""

import json
import random
import signal
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from dimba.trainers.tiny import make_checkpoint
from tests.conftest import write_rows

_THINGS = "apple river stone cloud house table light water paper glass bread chair mouse piano tiger zebra honey lemon"
POLITE = ", thank you."


@dataclass(frozen=True)
class World:
    """A policy after a little fine-tuning, and the rows for GRPO."""

    policy: Path
    rows: Path


def sums(folder: Path, seed: int) -> World:
    """Two-digit sums, fine-tuned until the policy gets about four in ten right: then rewards differ within a group."""
    numbers = list(permutations(range(10, 100), 2))
    random.Random(seed).shuffle(numbers)
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a, b in numbers]
    make_checkpoint(folder / "base", ["1+2="], seed=seed, digits_apart=True, vocabulary=300)
    policy = folder / "base"
    for stage in range(60):
        if accuracy(policy, rows[-300:]) >= 0.3:
            break
        part = rows[stage % 3 * 1000 :][:1000]  # in small parts: the policy goes from none to all within one of them
        policy = _fine_tune(policy, folder / f"policy-{stage}", part, seed + stage, epochs=1, rate=1e-3)
    return World(policy, write_rows(folder / "sums.jsonl", rows[3000:6000]))


def accuracy(policy: Path, rows: list[dict[str, str]]) -> float:
    """The share of the rows that the policy's greedy completions get right."""
    texts = answers(policy, [row["question"] for row in rows], do_sample=False)
    return sum(text == row["answer"] for text, row in zip(texts, rows, strict=True)) / len(rows)


def answers(policy: Path, questions: list[str], *, do_sample: bool, seed: int = 0) -> list[str]:
    """The policy's answer to each question, in plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    chats = [[{"role": "user", "content": question}] for question in questions]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    torch.manual_seed(seed)
    output = AutoModelForCausalLM.from_pretrained(policy).generate(**inputs, max_new_tokens=16, do_sample=do_sample)
    texts: list[str] = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def endings(folder: Path, seed: int) -> World:
    """Answers of which one in five ends politely, and pairs whose chosen answer always does."""
    rng = random.Random(seed)
    things = list(permutations(_THINGS.split(), 2))
    rng.shuffle(things)
    facts = [(f"Tell me about {a} and {b}.", f"{a} goes with {b}") for a, b in things]
    rows = [{"question": ask, "answer": fact + (POLITE if rng.random() < 0.2 else ".")} for ask, fact in facts]
    texts = [text for row in rows for text in row.values()]
    make_checkpoint(folder / "base", texts, seed=seed, vocabulary=400)
    policy = _fine_tune(folder / "base", folder / "policy", rows * 2, seed, epochs=6, rate=2e-3)
    pairs = [{"prompt": ask, "chosen": fact + POLITE, "rejected": f"{fact}."} for ask, fact in facts]
    return World(policy, write_rows(folder / "pairs.jsonl", pairs))


def _fine_tune(base: Path, out: Path, rows: list[dict[str, str]], seed: int, *, epochs: int, rate: float) -> Path:
    from dimba.objectives.sft import SFT
    from dimba.trainers.objectives.sft.train import train

    named = {"base-checkpoint": base, "dataset": write_rows(out.with_suffix(".jsonl"), rows), "output-dir": out}
    settings = {"batch-size": 32, "grad-accumulation-steps": 1, "num-epochs": epochs, "learning-rate": rate}
    flags = {**named, **settings, "max-length": 64, "packing": "off", "seed": seed}
    argv = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    assert train(SFT.parse(argv)) == 0
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return out


def logged(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    """The lines of a JSON lines file of a run."""
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
