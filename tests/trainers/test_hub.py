"""Checkpoints and data by their Hub id, from a stand-in for the Hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUESTIONS, REPOSITORY, write_rows
from tests.hub import hub

SCRIPT = REPOSITORY / "scripts" / "finetuning" / "finetune_sft.py"
FLAGS = ["--max-steps", "2", "--batch-size", "2", "--grad-accumulation-steps", "1", "--use-lora"]


def run(endpoint: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, str(SCRIPT), *flags, "--output-dir", str(folder / "out"), *FLAGS]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.proof
def test_a_checkpoint_and_a_data_set_are_loaded_from_the_hub(tiny_checkpoint: Path, tmp_path: Path):
    data = tmp_path / "data"
    write_rows(data / "train_sft.jsonl", QUESTIONS)
    readme = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train_sft\n    path: train_sft.jsonl\n---\n"
    )
    (data / "README.md").write_text(readme, encoding="utf-8")
    with hub({"tiny/llama": tiny_checkpoint, "datasets/tiny/questions": data}) as endpoint:
        named = ("--base-checkpoint", "tiny/llama", "--dataset", "tiny/questions")
        done = run(endpoint, tmp_path, *named, "--dataset-split", "train_sft")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "12 rows" in done.stdout and "step 2/2" in done.stdout
        streamed = run(endpoint, tmp_path / "streamed", *named, "--dataset-split", "train_sft", "--stream")
        assert streamed.returncode == 0, streamed.stdout + streamed.stderr
        assert "the first 12 rows of a stream" in streamed.stdout and "step 2/2" in streamed.stdout
        assert not list((tmp_path / "streamed").rglob("*.arrow")), "a stream is not kept on the disk"
        wrong = run(endpoint, tmp_path / "wrong", *named, "--dataset-split", "test")
        assert wrong.returncode == 2 and "split `test`" in wrong.stderr and "Traceback" not in wrong.stderr
        missing = run(endpoint, tmp_path / "missing", "--base-checkpoint", "no/model", "--dataset", "tiny/questions")
        assert missing.returncode == 2 and "--base-checkpoint: no/model" in missing.stderr
        assert "hint: " in missing.stderr and "Traceback" not in missing.stderr
