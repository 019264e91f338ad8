"""The wizard's spec runs in a container, and the wizard reads a custom trainer's flags there."""

import json
from pathlib import Path

from dimba.runners.docker.engine import Engine
from tests.conftest import Dimba


def flags(tiny_checkpoint: Path, *more: str) -> list[str]:
    given = ["--base-checkpoint", str(tiny_checkpoint), "--dataset", "data.jsonl", "--gpus", "none"]
    return ["wizard", "--defaults", *given, "--batch-size", "2", "--max-steps", "2", *more]


def test_the_wizards_spec_succeeds_in_a_container(
    job: Path, tiny_checkpoint: Path, dimba: Dimba, engine: Engine, built: str
):
    done = dimba(*flags(tiny_checkpoint, "--method", "lora", "--launch"), cwd=job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found in the trainer's --help" in done.stderr
    assert f"started in {built}" in done.stderr
    (run,) = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    assert (run["status"], run["exit_reason"], run["runner"]) == ("succeeded", "completed", "docker")
    assert (job / "checkpoints/finetune_sft_lora/adapter_model.safetensors").exists()


def test_the_flags_of_a_custom_trainer_are_read_in_the_image(
    job: Path, tiny_checkpoint: Path, dimba: Dimba, engine: Engine, built: str
):
    (job / "mine.py").write_text(
        "import argparse, os\np = argparse.ArgumentParser()\n"
        "where = 'in' if os.path.exists('/opt/dimba') else 'out'\n"
        "for name in ('model', 'dataset', 'full-ft', f'max_steps' if where == 'in' else 'nothing'):\n"
        "    p.add_argument('--' + name, nargs='?', help='x')\np.parse_args()\n"
    )
    done = dimba(*flags(tiny_checkpoint, "--method", "full", "--trainer", "mine.py"), cwd=job)
    assert done.returncode == 0, done.stderr
    assert "--max_steps 2" in done.stderr
    assert "training.batch_size 2: the trainer has no flag for it" in done.stderr
