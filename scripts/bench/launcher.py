"""The costs of the launcher, for `make bench`. Every figure is a ratio or a difference within one run.

Needs a container engine and a base image (DIMBA_BASE_IMAGE); takes some minutes.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
DIMBA = str(Path(PYTHON).parent / "dimba")
ROUNDS = 5

SPEC = """\
version: 1
name: bench
mode: sft
base_checkpoint: base
dataset: {{path: data.jsonl}}
method: full
training: {{batch_size: 8, grad_accumulation_steps: 1, max_steps: {steps}}}
output_dir: {output}
resources: {{gpus: none}}
runner: {runner}
"""
# Prints its first line at once, so that only the launch is timed.
ECHO = """\
import argparse
parser = argparse.ArgumentParser()
for flag in ("--model", "--dataset", "--output-dir"):
    parser.add_argument(flag)
parser.parse_args()
print("first line", flush=True)
"""


def seconds(command: list[str], folder: Path | None = None) -> float:
    """Wall time in seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def until_first_line(command: list[str], folder: Path) -> float:
    """Seconds until the command prints `first line`."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "first line":
            break
    taken = time.perf_counter() - started
    process.stdout.read()
    if process.wait():
        raise SystemExit(f"{command} failed")
    return taken


def alternating(first: Callable[[], float], second: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Run both in turn, so that a slower machine slows both."""
    pairs = [(first(), second()) for _ in range(ROUNDS)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def print_row(figure: str, measured: str, target: str) -> None:
    """Print one row of the table."""
    print(f"| {figure} | {measured} | {target} |", flush=True)


def help_costs() -> None:
    """Compare `dimba --help` with a bare interpreter."""
    ours, bare = alternating(lambda: seconds([DIMBA, "--help"]), lambda: seconds([PYTHON, "-c", "pass"]))
    ratio = statistics.median(ours) / statistics.median(bare)
    print_row("`dimba --help` over `python -c pass`", f"{ratio:.1f} ×", "at most 5 ×")


def validate_costs() -> None:
    """Time `dimba validate` of one spec."""
    spec = str(REPOSITORY / "jobs" / "sft-ultrachat-lora.yaml")
    taken = [seconds([DIMBA, "validate", spec]) for _ in range(ROUNDS)]
    print_row("`dimba validate` of one spec", f"{statistics.median(taken):.2f} s", "at most 0.5 s")


def make_job(folder: Path) -> None:
    """Write a tiny checkpoint, and rows long enough for steps of tens of milliseconds."""
    from dimba.trainers.tiny import conversations, make_checkpoint

    texts = [turn["content"] for row in conversations() for turn in row["messages"]]
    make_checkpoint(folder / "base", texts)
    row = {"question": " ".join(texts[:12]), "answer": " ".join(texts[12:40])}
    (folder / "data.jsonl").write_text((json.dumps(row) + "\n") * 400, encoding="utf-8")
    (folder / "echo.py").write_text(ECHO, encoding="utf-8")


def launch_costs(folder: Path) -> None:
    """Compare `dimba launch` with `docker run` of the same image and argv, until the container's first line."""
    count = iter(range(1000))

    def ours() -> float:
        spec = SPEC.format(steps=1, output=f"echo-{next(count)}", runner="docker") + "trainer: echo.py\n"
        (folder / "echo.yaml").write_text(spec, encoding="utf-8")
        return until_first_line([DIMBA, "launch", "echo.yaml"], folder)

    ours()  # builds a missing image, and reads the trainer's flags
    plan = json.loads(max(folder.glob("runs/*/plan.json"), key=lambda path: path.stat().st_mtime).read_text())
    command = [
        "docker",
        "run",
        "--rm",
        "--init",
        "--user",
        f"{os.getuid()}:{os.getgid()}",
        "--volume",
        f"{folder}:{folder}",
        "--workdir",
        str(folder),
    ]
    command += [plan["image"]["reference"], *plan["argv"]]
    launched, run = alternating(ours, lambda: until_first_line(command, folder))
    extra = statistics.median(launched) - statistics.median(run)
    detail = f"{statistics.median(launched):.1f} s against {statistics.median(run):.1f} s"
    print_row("`dimba launch` to the first line, over `docker run`", f"{extra:+.2f} s ({detail})", "at most +1.5 s")


def build_costs(folder: Path) -> None:
    """Time the decision that the image is current, and a build after the edit of a source file."""
    from dimba.runners.docker.engine import Engine, connect
    from dimba.runners.docker.image import look_at_image
    from dimba.runners.docker.runner import DockerRunner
    from dimba.spec import load_spec

    engine = connect()
    assert isinstance(engine, Engine)
    spec = load_spec(folder / "echo.yaml").spec
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        assert look_at_image(engine.api, spec, REPOSITORY).id, "the image exists"
        taken.append(time.perf_counter() - started)
    print_row("deciding that no build is needed", f"{statistics.median(taken):.3f} s", "at most 0.5 s")

    copy = folder / "copy"
    copy.mkdir()
    subprocess.run(["cp", "-r", *map(str, _built_from()), str(copy)], check=True)
    (copy / "dimba" / "edited.py").write_text(f"# {time.time()}\n", encoding="utf-8")
    started = time.perf_counter()
    image = DockerRunner(engine, copy).prepare(spec, lambda *_: None)
    print_row("building after an edit of a Python file", f"{time.perf_counter() - started:.1f} s", "at most 20 s")
    assert image is not None
    engine.api.remove_image(image.reference, force=True)


def _built_from() -> list[Path]:
    return [REPOSITORY / name for name in ("Dockerfile", "docker", "dimba", "scripts")]


def training_costs(folder: Path, steps: int = 60) -> None:
    """Compare steps per second in the container with the same job as a process."""
    count = iter(range(1000))

    def rate(runner: str) -> float:
        output = f"train-{next(count)}"
        (folder / "train.yaml").write_text(SPEC.format(steps=steps, output=output, runner=runner), encoding="utf-8")
        seconds([DIMBA, "launch", "train.yaml"], folder)
        newest = max(folder.glob("runs/*/attempts/1/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = [json.loads(line) for line in newest.read_text().splitlines()]
        warm = lines[5:]
        return (len(warm) - 1) / float(warm[-1]["elapsed"] - warm[0]["elapsed"])

    inside, outside = alternating(lambda: rate("docker"), lambda: rate("process"))
    ratio = statistics.median(inside) / statistics.median(outside)
    detail = f"{statistics.median(inside):.1f} against {statistics.median(outside):.1f}"
    print_row("steps per second in the container over outside", f"{ratio:.2f} × ({detail})", "at least 0.97 ×")


def main() -> None:
    """Print every figure as a row of a table."""
    machine = f"{platform.node()}, {len(os.sched_getaffinity(0))} cores, {time.strftime('%Y-%m-%d')}"
    print(f"| {machine} | measured | target |\n| --- | --- | --- |", flush=True)
    help_costs()
    validate_costs()
    with tempfile.TemporaryDirectory(prefix="dimba-bench-") as name:
        folder = Path(name)
        make_job(folder)
        launch_costs(folder)
        build_costs(folder)
        training_costs(folder)


if __name__ == "__main__":
    main()
