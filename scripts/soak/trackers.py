"""A job that reports to real trackers, without a network where the machine can take it away, and what each received.

PYTHONPATH=. python scripts/soak/trackers.py [FOLDER]

FOLDER keeps the packages for the next time: trackio, tensorboard, mlflow and wandb are 1.2 GB together.
"""

import json
import os
import shutil
import site
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from dimba.options.tracking_table import TRACKERS

ROOT = Path(__file__).parents[2]
STEPS = 6


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages = install(Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "packages")
        out = folder / "out"
        train(folder, out, packages)
        logged = [line for line in map(json.loads, (out / "metrics.jsonl").open()) if "loss" in line]
        print(json.dumps({"metrics.jsonl": len(logged), "last": round(logged[-1]["loss"], 4)}))
        found = {"trackio": trackio(out), "mlflow": mlflow(out), "tensorboard": tensorboard(out, packages)}
        for tracker, losses in found.items():
            print(json.dumps({"tracker": tracker, "steps": len(losses), "last": round(losses[-1], 4)}))
            assert len(losses) == STEPS and abs(losses[-1] - logged[-1]["loss"]) < 1e-4
        [offline] = out.glob("wandb/offline-run-*/*.wandb")
        print(json.dumps({"tracker": "wandb", "offline bytes": offline.stat().st_size}))


def install(folder: Path) -> Path:
    """The trackers' packages in a folder of their own, behind the project's in the order of import."""
    if not folder.is_dir():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(folder),
        ]
        subprocess.run([*pip, *TRACKERS.values()], check=True)
    return folder


def train(folder: Path, out: Path, packages: Path) -> None:
    places = [str(ROOT), *site.getsitepackages(), str(packages)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "dimba.trainers.tiny", "make", str(folder)], check=True, cwd=ROOT, env=environment
    )
    script = [sys.executable, "scripts/finetuning/finetune_sft.py", "--base-checkpoint", f"{folder}/base"]
    flags = ["--dataset", f"{folder}/data.jsonl", "--output-dir", str(out), "--max-steps", str(STEPS), "--use-lora"]
    flags += ["--batch-size", "8", "--device", "cpu", "--report-to", *TRACKERS]
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    can = os.geteuid() == 0 and shutil.which("unshare") and shutil.which("ip")
    subprocess.run([*(alone if can else ()), *script, *flags], check=True, cwd=ROOT, env=environment)


def trackio(out: Path) -> list[float]:
    rows = sqlite3.connect(out / "trackio" / "dimba.db").execute("select metrics from metrics order by step")
    return [value["train/loss"] for (text,) in rows if "train/loss" in (value := json.loads(text))]


def mlflow(out: Path) -> list[float]:
    rows = sqlite3.connect(out / "mlflow" / "mlflow.db").execute(
        "select value from metrics where key = 'loss' order by step"
    )
    return [value for (value,) in rows]


def tensorboard(out: Path, packages: Path) -> list[float]:
    sys.path.append(str(packages))
    from importlib import import_module

    events = import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    found = events(str(out / "tensorboard"))
    found.Reload()
    return [event.value for event in found.Scalars("train/loss")]


if __name__ == "__main__":
    main()
