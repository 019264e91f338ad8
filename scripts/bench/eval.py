"""`dimba eval` against plain transformers: the losses of two models on the same rows, in batches of the same size.

    OMP_NUM_THREADS=1 PYTHONPATH=. python scripts/bench/eval.py [--rounds 5] [--rows 400] [--batch-size 16]

CPU seconds of whole processes, so that the start counts. The peer is a script of transformers alone: it reads the rows
in their order, pads each batch, and takes the cross entropy of the answers' tokens. Both means have to agree.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dimba.trainers.tiny import make_checkpoint
from scripts.bench.talk import cpu_seconds, environment, pairs

PEER = """\
import json, sys, torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer
*folders, rows, batch = sys.argv[1:]
chats = [json.loads(line)["messages"] for line in open(rows)]
means = []
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    losses = []
    for start in range(0, len(chats), int(batch)):
        part = chats[start : start + int(batch)]
        questions = [each[:-1] for each in part]
        asked = tokenizer.apply_chat_template(questions, add_generation_prompt=True, return_dict=True)
        ids = tokenizer.apply_chat_template(part, padding=True, return_tensors="pt", return_dict=True)
        labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
        for row, prompt in enumerate(asked["input_ids"]):
            labels[row, : len(prompt)] = -100
            labels[row, ids["attention_mask"][row].sum() - 1] = -100  # the line break behind the end token
        with torch.inference_mode():
            logits = model(**ids).logits
        each = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        losses += (each.sum(1) / (labels[:, 1:] != -100).sum(1)).tolist()
    means.append(sum(losses) / len(losses))
print(json.dumps(means))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, args.rows)
        ours = [
            str(Path(sys.executable).parent / "dimba"),
            "eval",
            "tuned",
            "--against",
            "./base",
            "--file",
            "rows.jsonl",
        ]
        ours += ["--runner", "process", "--gpus", "none", "--batch-size", str(args.batch_size), "--json"]
        theirs = [sys.executable, "peer.py", "tuned", "base", "rows.jsonl", str(args.batch_size)]
        check(folder, ours, theirs)
        mine, its = pairs(lambda: cpu_seconds(ours, folder), lambda: cpu_seconds(theirs, folder), args.rounds)
    ratios = sorted(other / one for one, other in zip(mine, its, strict=True))
    taken = f"{statistics.median(mine):.2f} CPU s of dimba, {statistics.median(its):.2f} of transformers"
    print(f"{args.rows} rows, two models: {taken}")
    print(f"  speed {statistics.median(ratios):.2f} × ({ratios[0]:.2f} to {ratios[-1]:.2f}; target at least 0.9)")


def write(folder: Path, rows: int) -> None:
    """Two models of about 1.5 M parameters, rows of 20 to 250 tokens, and the peer."""
    drawn = random.Random(1)
    words = ["".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=drawn.randint(2, 9))) for _ in range(400)]
    chats = []
    for _ in range(rows):
        question, answer = (" ".join(drawn.choices(words, k=drawn.randint(3, 30))) for _ in range(2))
        chats.append([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    for seed, name in enumerate(("base", "tuned")):
        make_checkpoint(
            folder / name,
            [" ".join(words)] * 4,
            seed=seed,
            vocabulary=4096,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
        )
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "peer.py").write_text(PEER, encoding="utf-8")


def check(folder: Path, ours: list[str], theirs: list[str]) -> None:
    """Both compute the same means."""
    found = [
        subprocess.run(each, cwd=folder, env=environment(), capture_output=True, text=True, check=True).stdout
        for each in (ours, theirs)
    ]
    measure, peer = json.loads(found[0])["measures"]["loss"], json.loads(found[1])
    mine = [measure["model"], measure["against"]]
    assert all(abs(one - other) < 1e-3 for one, other in zip(mine, peer, strict=True)), (mine, peer)


if __name__ == "__main__":
    main()
