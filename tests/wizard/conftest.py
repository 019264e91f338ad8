"""A folder to run the wizard in, with a pretend nvidia-smi."""

import os
from pathlib import Path

import pytest

from tests.conftest import NO_ENGINE, QUESTIONS, hollow_checkpoint, write_rows

_SMI = """\
#!/bin/sh
[ "$GPUS" = none ] && { echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9; }
i=0; IFS=';'
for gpu in $GPUS; do
  echo "$i, GPU-0000-$i, ${gpu%:*}, ${gpu##*:}, 8.9, 580.95.05"; i=$((i + 1))
done
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """checkpoints/base and qa.jsonl; no GPU, no engine, no network, a state folder of its own."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "nvidia-smi").write_text(_SMI)
    (bin_folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("GPUS", "none")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in NO_ENGINE.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "work"
    hollow_checkpoint(folder / "checkpoints" / "base")
    template = "{% for message in messages %}{{ message.role }}> {{ message.content }}\n{% endfor %}"
    (folder / "checkpoints" / "base" / "chat_template.jinja").write_text(template)
    write_rows(folder / "qa.jsonl", QUESTIONS)
    return folder


ONE_8, TWO_24, EIGHT_80 = "RTX 4060:8188", "RTX 4090:24564;RTX 4090:24564", ";".join(["H100:81559"] * 8)
