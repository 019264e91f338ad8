"""Real tokens per second to the same loss: dimba, `trl sft` with its defaults, and `trl sft` with its own packing.

    PYTHONPATH=. python scripts/bench/train.py [FILE] [--rounds 3] [--steps 12] [--plot FILE.svg]

FILE is a .json array of instruction/input/output rows, or .jsonl of questions and answers; without it, rows are
generated. All train the same random Llama of 20 M parameters once on the same rows, in turn, each as a user would start
it; then their losses on held-out rows are compared. Imports, loading and tokenising count towards the time to the first
step, not as training time. The first step counts as the mean of the others. Tokens exclude padding.

CPU time is printed beside wall time, as it does not depend on other work of the machine. LLaMA-Factory and axolotl take
part if installed. `--device cuda` trains a Llama of 1 B parameters at a length of 2,048 instead and prints the achieved
share of the measured bf16 matrix rate; this has not been run on a GPU.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which
from typing import Any

from scripts.bench import peers
from scripts.bench.data import made_up
from scripts.bench.peers import Work
from scripts.bench.watched import Run, run

HELD_OUT = 40
TRL, PACKED, OURS = "trl sft", "trl sft --packing", "dimba"
SMALL = {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 8, "num_attention_heads": 6}
LARGE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
Command = Callable[[Path], list[str]]


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        work, held_out, tokens, parameters = prepared(args, Path(name))
        print(f"{parameters / 1e6:.1f} M parameters, {args.steps} steps of {args.batch} rows, {tokens:,} real tokens")
        print(", ".join(f"{each} {installed(each)}" for each in ("torch", "transformers", "trl")))
        entrants = commands(work, bf16=args.bf16 and work.on_cpu)
        runs: dict[str, list[Run]] = {each: [] for each in entrants}
        for number in range(args.rounds):
            for each, command in entrants.items():
                out = work.folder / f"{number}-{list(entrants).index(each)}"
                metrics = f"{out.name}/metrics.jsonl" if each.startswith(OURS) else None
                runs[each].append(run(command(out), folder=work.folder, threads=args.threads, metrics=metrics))
        losses = {each: held_out(work.folder / f"0-{at}") for at, each in enumerate(entrants)}
    report(runs, losses, tokens)
    if args.device == "cuda":
        share_of_peak(tokens / median(runs[OURS], "seconds"), parameters)
    if args.plot:
        plot(args.plot, runs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("file", nargs="?", type=Path)
    add("--rounds", type=int, default=2)
    add("--steps", type=int, default=12)
    add("--batch", type=int, default=8)
    add("--length", type=int, help="maximum tokens per example (default: 1024; on CUDA 2048)")
    add("--vocabulary", type=int, default=8192)
    add("--hidden", type=int, help="hidden size, with heads of 64 and an MLP three times as wide")
    add("--layers", type=int)
    add("--threads", type=int, default=os.cpu_count(), help="threads per trainer (default: one per core)")
    add("--bf16", action="store_true", help="on a CPU, dimba with bf16 autocast too, which is no default there")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--plot", type=Path, metavar="FILE.svg", help="loss curves over tokens and over seconds")
    args = parser.parse_args()
    args.length = args.length or (2048 if args.device == "cuda" else 1024)
    return args


def prepared(args: argparse.Namespace, folder: Path) -> tuple[Work, Callable[[Path], float], int, int]:
    """(the work in the files that each trainer reads, the held-out loss of a model, tokens, parameters)."""
    from dimba.trainers.tiny import make_checkpoint

    rows = rows_of(args.file) if args.file else made_up(1000)
    shape = shape_of(args)
    heads = {"num_key_value_heads": shape["num_attention_heads"], "max_position_embeddings": 4096}
    make_checkpoint(
        folder / "base", [text for row in rows for text in row.values()], vocabulary=args.vocabulary, **shape, **heads
    )
    count = args.steps * args.batch
    if len(rows) < count + HELD_OUT:
        raise SystemExit(f"{len(rows)} rows are too few: {count} to train on and {HELD_OUT} held out")
    write(folder, rows[HELD_OUT : HELD_OUT + count])
    tokens, parameters = sizes(folder)
    packs = max(1, round(tokens / args.steps / args.length))
    work = Work(folder, args.batch, args.length, packs, args.device == "cpu")
    return work, partial(loss, [chat(row) for row in rows[:HELD_OUT]]), tokens, parameters


def rows_of(file: Path) -> list[dict[str, str]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".jsonl":
        return list(json.loads(text))
    questions = map(json.loads, text.splitlines())
    return [{"instruction": each["question"], "input": "", "output": each["answer"]} for each in questions]


def shape_of(args: argparse.Namespace) -> dict[str, Any]:
    shape = LARGE if args.device == "cuda" else SMALL
    if hidden := args.hidden:
        shape = shape | {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_attention_heads": hidden // 64}
    return shape | ({"num_hidden_layers": args.layers} if args.layers else {})


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    messages = "".join(json.dumps({"messages": chat(row)}) + "\n" for row in rows)
    (folder / "messages.jsonl").write_text(messages, encoding="utf-8")
    (folder / "chats").mkdir()
    halves = [{"prompt": chat(row)[:1], "completion": chat(row)[1:]} for row in rows]
    (folder / "chats" / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in halves), encoding="utf-8")


def chat(row: dict[str, str]) -> list[dict[str, str]]:
    question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]


def sizes(folder: Path) -> tuple[int, int]:
    """(tokens of the rows, parameters of the model)."""
    from safetensors import safe_open
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    texts = [tokenizer.apply_chat_template(chat(row), tokenize=False) for row in rows]
    with safe_open(folder / "base" / "model.safetensors", "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  # not a dictionary
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts), parameters


def loss(chats: list[Any], model: Path) -> float:
    """The loss on held-out chats, in nats per trained token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dimba.trainers.tiny import mean_loss

    return mean_loss(AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model), chats)


def commands(work: Work, *, bf16: bool) -> dict[str, Command]:
    """The command of each installed trainer by its name; prints the names of the others."""
    found: dict[str, Command] = {
        OURS: lambda out: peers.ours(work, out),
        TRL: lambda out: peers.trl(work, out, packing=False),
        PACKED: lambda out: peers.trl(work, out, packing=True),
    }
    if bf16:
        found["dimba, bf16"] = lambda out: peers.ours(work, out, "--mixed-precision", "bf16")
    others = (("LLaMA-Factory", peers.llama_factory), ("axolotl", peers.axolotl))
    for name, command in others:
        if which(peers.PEERS[name]):
            found[name] = partial(command, work)
        else:
            print(f"{name}: not installed")
    return found


def report(runs: dict[str, list[Run]], losses: dict[str, float], tokens: int) -> None:
    print(f"\n{'':20}{'tokens/s':>10}{'per CPU s':>10}{'first step':>12}{'peak MiB':>10}{'loss':>8}{'held out':>10}")
    for name, of in runs.items():
        speed, cpu = tokens / median(of, "seconds"), tokens / median(of, "cpu_seconds")
        last = statistics.mean(loss for _, loss in of[0].steps[-3:])
        first, peak = f"{median(of, 'first'):.1f} s", max(each.peak for each in of) >> 20
        print(f"{name:20}{speed:10,.0f}{cpu:10,.0f}{first:>12}{peak:10,}{last:8.3f}{losses[name]:10.3f}")
    for name in (each for each in runs if each.startswith(OURS)):
        for peer, target in ((TRL, 3), (PACKED, 2)):
            wall, busy = (sorted(ratios(runs[peer], runs[name], what)) for what in ("seconds", "cpu_seconds"))
            ratio = f"{statistics.median(wall):.2f} × ({wall[0]:.2f} to {wall[-1]:.2f})"
            print(f"{name} over {peer}: {ratio}; by CPU time {statistics.median(busy):.2f} × (target {target})")
    quickest = min(median(of, "first") for name, of in runs.items() if not name.startswith(OURS))
    start = median(runs[OURS], "first") / quickest
    print(f"time to the first step, {OURS} over the quickest other: {start:.2f} (target 1.1)")


def ratios(slow: list[Run], quick: list[Run], what: str) -> list[float]:
    return [float(getattr(one, what) / getattr(other, what)) for one, other in zip(slow, quick, strict=True)]


def median(of: list[Run], what: str) -> float:
    return statistics.median(float(getattr(each, what)) for each in of)


def plot(path: Path, runs: dict[str, list[Run]]) -> None:
    from scripts.bench.curves import write_svg  # a machine that only measures needs no matplotlib

    first = {name: of[0].steps for name, of in runs.items()}
    by_share = {
        name: [((at + 1) / len(steps), loss) for at, (_, loss) in enumerate(steps)] for name, steps in first.items()
    }
    write_svg(path, {"the share of the rows": by_share, "seconds": first})
    print(f"curves: {path}")


def share_of_peak(speed: float, parameters: int) -> None:
    """Print the share of the rate of a large matrix product, at six operations per parameter and token."""
    import torch

    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        one @ other
    torch.cuda.synchronize()
    peak = 20 * 2 * 8192**3 / (time.perf_counter() - began)
    print(f"share of the measured bf16 matrix rate, {peak / 1e12:.0f} TFLOP/s: {6 * parameters * speed / peak:.0%}")


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
