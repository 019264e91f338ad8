"""`dimba chat` and `dimba generate --file` against plain transformers, on a tiny model.

    PYTHONPATH=. python scripts/bench/talk.py [--rounds 5] [--rows 256] [--runner docker|process]

First token: seconds from the command to the first character of the answer, warm, in the same image; the peer is a
script of transformers alone, streamed, started by `docker run`. Files: CPU
seconds of whole processes; the peer answers the rows in their order, in padded batches of the same size.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dimba.trainers.tiny import ASKING, COLOURS, make

PEER = """\
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
folder, rows, tokens, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(folder)
chats = [[{"role": "user", "content": json.loads(line)["prompt"]}] for line in open(rows)]
how = {"do_sample": False, "max_new_tokens": tokens, "pad_token_id": tokenizer.pad_token_id}
for start in range(0, len(chats), batch):
    part = chats[start : start + batch]
    ids = tokenizer.apply_chat_template(
        part, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True)
    streamer = TextStreamer(tokenizer, skip_prompt=True) if len(chats) == 1 else None
    output = model.generate(**ids, streamer=streamer, **how)
    for row in output[:, ids["input_ids"].shape[1]:] if len(chats) > 1 else ():
        print(json.dumps({"answer": tokenizer.decode(row, skip_special_tokens=True)}))
"""
Command = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--runner", choices=("docker", "process"), default="docker")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name), args.runner)
        show(
            "first token",
            *pairs(place.first_token, place.peer_first_token, args.rounds),
            target="at most 1.2",
        )
        place = Place(Path(name), "process")
        place.write_rows(args.rows)
        show("a file of rows", *pairs(place.file, place.peer_file, args.rounds), target="at most 1.11")


class Place:
    """A folder with a tiny model, one question and the peer's script."""

    def __init__(self, folder: Path, runner: str) -> None:
        self.folder, self._runner = folder, runner
        make(folder)
        (folder / "peer.py").write_text(PEER, encoding="utf-8")
        (folder / "one.jsonl").write_text(json.dumps({"prompt": "What colour is the sky?"}) + "\n", encoding="utf-8")
        self._how = ("--runner", runner, "--gpus", "none", "--max-new-tokens", "48")
        until_output(self._dimba("generate", "What colour is the sky?"), folder)  # builds the image, compiles modules
        self._image = self._newest_image() if runner == "docker" else ""

    def _newest_image(self) -> str:
        listed = ["docker", "images", "--filter", "label=dimba.image-key", "--format", "{{.ID}}"]
        return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()[0]

    def _dimba(self, command: str, *more: str) -> list[str]:
        return [str(Path(sys.executable).parent / "dimba"), command, str(self.folder / "base"), *more, *self._how]

    def _peer(self, rows: str, batch: int) -> list[str]:
        argv = ["peer.py", "base", rows, "48", str(batch)]
        if self._runner == "process":
            return [sys.executable, *argv]
        where = [
            "-v",
            f"{self.folder}:{self.folder}",
            "-w",
            str(self.folder),
            "-e",
            "HF_HUB_OFFLINE=1",
            "-u",
            str(os.getuid()),
        ]
        return ["docker", "run", "--rm", "--network", "none", *where, self._image, "python", *argv]

    def write_rows(self, count: int) -> None:
        """Questions of several lengths."""
        asked = [asking.format(thing) for asking in ASKING for thing in COLOURS]
        texts = (f"{asked[n % len(asked)]} {'Please. ' * (n % 7)}" for n in range(count))
        (self.folder / "rows.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in texts))

    def first_token(self) -> float:
        """Seconds of `dimba chat`, asked over its stdin."""
        return until_output(self._dimba("chat"), self.folder, "What colour is the sky?\n")

    def peer_first_token(self) -> float:
        """Seconds of the peer."""
        return until_output(self._peer("one.jsonl", 1), self.folder)

    def file(self) -> float:
        """Seconds of `dimba generate --file`."""
        (self.folder / "rows.answers.jsonl").unlink(missing_ok=True)
        return cpu_seconds(self._dimba("generate", "--file", "rows.jsonl", "--batch-size", "16"), self.folder)

    def peer_file(self) -> float:
        """Seconds of the peer."""
        return cpu_seconds(self._peer("rows.jsonl", 16), self.folder)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "."), "HF_HUB_OFFLINE": "1"}


def until_output(argv: Sequence[str], folder: Path, text: str = "") -> float:
    """Seconds until the first byte on stdout."""
    started = time.monotonic()
    with subprocess.Popen(
        argv, cwd=folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(text.encode())
        child.stdin.close()
        assert child.stdout.read(1), f"{argv} printed nothing"
        taken = time.monotonic() - started
        child.stdout.read()
    return taken


def cpu_seconds(argv: Sequence[str], folder: Path) -> float:
    """CPU seconds of a command and its processes: wall time would measure what else runs here."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def pairs(ours: Command, theirs: Command, rounds: int) -> tuple[list[float], list[float]]:
    """Times of both in turn, so that a busy machine slows both."""
    ours(), theirs()
    taken = [(ours(), theirs()) for _ in range(rounds)]
    return [one for one, _ in taken], [other for _, other in taken]


def show(what: str, ours: list[float], theirs: list[float], *, target: str) -> None:
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"{what}: {statistics.median(ours):.2f} s of dimba, {statistics.median(theirs):.2f} s of transformers")
    print(f"  ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}; target {target})", flush=True)


if __name__ == "__main__":
    assert shutil.which("docker") or "process" in sys.argv, "no docker client"
    main()
