"""dimba from a wheel on the real engine: it launches in the image of its checkout."""

import json
import os
from pathlib import Path

from tests.conftest import QUESTIONS, TEST_BASE, write_rows
from tests.wheel import build_wheel, install


def test_a_wheel_launches_in_the_image_of_its_checkout(built: str, tmp_path: Path, tiny_checkpoint: Path):
    dimba = install(build_wheel(tmp_path / "wheel"), tmp_path / "environment", trains=False)
    folder = tmp_path / "mine"
    write_rows(folder / "rows.jsonl", QUESTIONS)
    flags = f"--base-checkpoint {tiny_checkpoint} --dataset rows.jsonl --method lora --batch-size 2 --max-steps 2"
    settings = {"DIMBA_BASE_IMAGE": TEST_BASE, "HF_HOME": str(tmp_path / "cache")}
    words = ("wizard", "--defaults", *flags.split(), "--gpus", "none", "--out", "job.yaml", "--launch")
    done = dimba.run(*words, cwd=folder, **settings)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("runs/*/run.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["image"] == built and record["image_digest"], "no other image was built"
    plan = json.loads(file.with_name("plan.json").read_text(encoding="utf-8"))
    assert "/opt/dimba/scripts/finetuning/finetune_sft.py" in plan["argv"]
    adapter = folder / "checkpoints" / "finetune_sft_lora" / "adapter_model.safetensors"
    assert adapter.stat().st_uid == os.geteuid()
