"""The README's examples run as they are written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUESTIONS, REPOSITORY, write_rows
from tests.hub import hub

README = REPOSITORY / "scripts" / "finetuning" / "README.md"
EXAMPLES = re.findall(r"```bash\n(python .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=["hub", "file"])
def test_an_example_runs_as_written(example: str, tiny_checkpoint: Path, tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "base").symlink_to(tiny_checkpoint)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    write_rows(tmp_path / "data" / "my_sft.jsonl", QUESTIONS)
    chats = [
        {
            "prompt": row["question"],
            "prompt_id": str(number),
            "messages": [
                {"content": row["question"], "role": "user"},
                {"content": row["answer"], "role": "assistant"},
            ],
        }
        for number, row in enumerate(QUESTIONS)
    ]
    write_rows(tmp_path / "ultrachat" / "train_sft.jsonl", chats)
    card = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train_sft\n    path: train_sft.jsonl\n---\n"
    )
    (tmp_path / "ultrachat" / "README.md").write_text(card, encoding="utf-8")
    _, *arguments = shlex.split(example.replace("\\\n", " "))
    with hub({"datasets/HuggingFaceH4/ultrachat_200k": tmp_path / "ultrachat"}) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 3/3" in done.stdout
