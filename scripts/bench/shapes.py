"""CPU seconds per real token on several shapes and data: dimba, `trl sft` with its defaults, and its packing.

    PYTHONPATH=. OMP_NUM_THREADS=1 python scripts/bench/shapes.py [NAME …] [--steps 3] [--rounds 1]

GSM8K and the alpaca demo are read from the folder that DATA names (default: ../shared/data). All three train in this
process, in turn, so that other work of the machine meets them alike; CPU time counts, of every step but the first.
Beside the measured ratios stand the ratios of the work in matrix products, counted from the tokens: TRL computes
padding, every layer's forward pass twice, and the head at every position. Their own lines go to stderr.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench import peers, train
from scripts.bench.peers import Work

DATA = Path(os.environ.get("DATA", "../shared/data"))
OURS, TRL, PACKED = "dimba", "trl sft", "trl sft --packing"


@dataclass(frozen=True)
class Shape:
    """A model and its rows: `rows` turns GSM8K's question, reasoning and result into (prompt, answer)."""

    hidden: int
    layers: int
    vocabulary: int = 8192
    length: int = 512
    rows: Callable[[str, str, str], tuple[str, str]] | None = None  # None: the alpaca demo


SHAPES = {
    "gsm8k": Shape(512, 6, rows=lambda question, why, result: (question, f"{why}\n#### {result}")),
    "chat": Shape(384, 8, length=1024),
    "deep": Shape(192, 24, length=1024),
    "vocabulary": Shape(256, 4, vocabulary=32768, length=1024),
    "short answers": Shape(384, 6, rows=lambda question, why, result: (f"{question}\n{why}", result)),
    "long answers": Shape(384, 6, rows=lambda question, why, result: ("Go on.", f"{question}\n{why} {result}")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=[*SHAPES], help=", ".join(SHAPES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    print(f"{'shape':15}{'params':>8}{'scored':>8}{'over trl sft':>14}{'by work':>9}{'over packing':>14}{'by work':>9}")
    for name in args.names:
        with tempfile.TemporaryDirectory() as folder:
            print(measured(name, SHAPES[name], args, Path(folder)), flush=True)


def measured(name: str, shape: Shape, args: argparse.Namespace, folder: Path) -> str:
    """The line of a shape."""
    rows = rows_of(shape)
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    settings = {"file": folder / "data.json", "steps": args.steps, "batch": 8, "length": shape.length, "device": "cpu"}
    model = {"vocabulary": shape.vocabulary, "hidden": shape.hidden, "layers": shape.layers}
    work, _, _, parameters = train.prepared(argparse.Namespace(**settings, **model), folder)
    ratios: dict[str, list[float]] = {TRL: [], PACKED: []}
    for number in range(args.rounds):
        ours = ours_per_token(work, folder / f"out-{number}")
        for each, found in ratios.items():
            found.append(trl_per_token(work, folder / f"{each}-{number}", packing=each == PACKED) / ours)
    padded, packed, scored = work_ratios(work, shape)
    over, over_packed = (f"{statistics.median(ratios[each]):.2f} ×" for each in (TRL, PACKED))
    head = f"{name:15}{parameters / 1e6:7.1f}M{scored:8.0%}"
    return f"{head}{over:>14}{padded:9.2f}{over_packed:>14}{packed:9.2f}"


def rows_of(shape: Shape) -> list[dict[str, str]]:
    if shape.rows is None:
        return list(json.loads((DATA / "alpaca-en-demo.json").read_text(encoding="utf-8")))
    found = []
    for line in (DATA / "gsm8k-train-2000.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        why, _, result = row["answer"].partition("####")
        prompt, answer = shape.rows(row["question"], why.strip(), result.strip())
        found.append({"instruction": prompt, "input": "", "output": answer})
    return found


def ours_per_token(work: Work, out: Path) -> float:
    """CPU seconds per token of dimba's trainer, started as its script does."""
    from dimba.objectives.sft import SFT
    from dimba.trainers.objectives.sft import train as sft

    return timed(lambda: sft.train(SFT.parse(peers.ours(work, out)[2:])), tokens_of(work))


def trl_per_token(work: Work, out: Path, *, packing: bool) -> float:
    """CPU seconds per token of TRL's trainer with the flags of `scripts/bench/peers.py`."""
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    rows = load_dataset("json", data_files=str(work.folder / "chats" / "train.jsonl"), split="train")
    config = SFTConfig(
        output_dir=str(out), per_device_train_batch_size=work.packs if packing else work.batch, num_train_epochs=1,
        learning_rate=float(peers.RATE), max_length=work.length, packing=packing, use_cpu=True, bf16=False,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(str(work.folder / "base"), args=config, train_dataset=rows)
    return timed(lambda: trainer.train(), tokens_of(work))  # noqa: PLW0108  # `timed` replaces `train`


def timed(begin: Callable[[], Any], tokens: int) -> float:
    """CPU seconds per token of a training; its first step counts as the mean of the others."""
    from transformers import Trainer, TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            began.append(time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended.append(time.process_time())

    began: list[float] = []
    ended: list[float] = []
    original = Trainer.train

    def watched(self: Trainer, *args: Any, **named: Any) -> Any:
        self.add_callback(Watch())
        return original(self, *args, **named)

    Trainer.train = watched
    try:
        with redirect_stdout(sys.stderr):
            begin()
    finally:
        Trainer.train = original
    seconds = [end - start for start, end in zip(began, ended, strict=True)][1:]
    return statistics.mean(seconds) * len(began) / tokens


def tokens_of(work: Work) -> int:
    return sum(prompt + answer for prompt, answer in lengths(work))


def lengths(work: Work) -> list[tuple[int, int]]:
    """Tokens of the prompt and of the answer of each row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work.folder / "base")
    found = []
    for row in json.loads((work.folder / "rows.json").read_text(encoding="utf-8")):
        chat = train.chat(row)
        texts = [tokenizer.apply_chat_template(part, tokenize=False) for part in (chat[:1], chat)]
        prompt, both = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
        found.append((prompt, min(both, work.length) - prompt))
    return found


def work_ratios(work: Work, shape: Shape) -> tuple[float, float, float]:
    """(work of TRL's defaults, of its packing, both over dimba's; the share of tokens with a loss)."""
    rows = lengths(work)
    layer, head = 13 * shape.hidden**2, shape.hidden * shape.vocabulary  # attention 4, an MLP three times as wide 9
    real, scored = sum(map(sum, rows)), sum(answer for _, answer in rows)
    batches = [rows[at : at + work.batch] for at in range(0, len(rows), work.batch)]
    area = sum(len(batch) * max(map(sum, batch)) for batch in batches)
    ours = 3 * (layer * shape.layers * real - 9 * shape.hidden**2 * (real - scored) + head * scored)
    theirs, packed = (4 * layer * shape.layers * tokens + 3 * head * tokens for tokens in (area, real))
    return theirs / ours, packed / ours, scored / real


if __name__ == "__main__":
    main()
