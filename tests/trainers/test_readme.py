"""The README's examples run as they are written."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dimba.common.contract import EXIT_STOPPED
from tests.conftest import QUESTIONS, REPOSITORY, write_rows
from tests.hub import hub
from tests.trainers.learning import endings

README = REPOSITORY / "scripts" / "finetuning" / "README.md"
EXAMPLES = re.findall(r"```bash\n(python .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def project(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A folder with what the examples name."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "base").symlink_to(tiny_checkpoint)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    write_rows(tmp_path / "data" / "my_sft.jsonl", QUESTIONS)
    return tmp_path


def on_hub(folder: Path, split: str, rows: list[dict[str, Any]]) -> Path:
    """A data set as it lies on the Hub."""
    write_rows(folder / f"{split}.jsonl", rows)
    files = f"data_files:\n  - split: {split}\n    path: {split}.jsonl"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  {files}\n---\n", encoding="utf-8")
    return folder


def start(example: str, project: Path, endpoint: str) -> "subprocess.Popen[str]":
    _, *arguments = shlex.split(example.replace("\\\n", " "))
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(project / "hf"), "HF_HUB_OFFLINE": "0"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.proof
@pytest.mark.parametrize("example", EXAMPLES[:2], ids=["hub", "file"])
def test_an_example_runs_as_written(example: str, project: Path):
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
    data = on_hub(project / "ultrachat", "train_sft", chats)
    with hub({"datasets/HuggingFaceH4/ultrachat_200k": data}) as endpoint:
        process = start(example, project, endpoint)
        said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "step 3/3" in said


@pytest.mark.proof
def test_the_example_of_grpo_runs_as_written(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: project / "tokens")
    (project / "checkpoints" / "base").unlink()  # one that ends its turns soon
    (project / "checkpoints" / "base").symlink_to(endings(project / "world", seed=0).policy)
    scored = [
        {
            "orig_instruction": f"What is {n} + {m}?",
            "orig_response": said,
            "orig_score": score,
            "orig_criteria": "Right?",
        }
        for n in range(30)
        for m in range(30)
        for said, score in ((f"It is {n + m}.", "5"), ("What is?", "1"))
    ]
    data = on_hub(project / "feedback", "train", scored)
    with hub({"datasets/argilla/feedback-collection": data}) as endpoint:
        process = start(EXAMPLES[2], project, endpoint)
        said = []
        for line in process.stdout or ():
            said.append(line)
            if line.startswith("step 1/500"):
                process.send_signal(signal.SIGTERM)  # its 500 steps take too long here
        assert process.wait() == EXIT_STOPPED, "".join(said)
    assert "stage 2 of 2" in "".join(said) and list((project / "checkpoints/finetune_grpo_qlora").glob("checkpoint-*"))
