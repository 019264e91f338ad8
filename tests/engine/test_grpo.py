"""GRPO in the container, with the files that its flags name mounted."""

import json
from pathlib import Path

from tests.conftest import Dimba, write_rows

SPEC = """\
version: 1
mode: grpo
base_checkpoint: {base}
dataset: {{path: sums.jsonl}}
method: lora
training: {{batch_size: 8, grad_accumulation_steps: 1, max_steps: 2, max_length: 128}}
trainer_args: {{max-completion-length: 8, reward: [numeric, "mine.py:short", "json_valid:schema.json"]}}
output_dir: out
resources: {{gpus: none}}
runner: docker
"""
MINE = "def short(completions, **columns):\n    return [-float(len(text)) for text in completions]\n"


def test_a_custom_reward_function_runs_in_the_container(tiny_checkpoint: Path, tmp_path: Path, dimba: Dimba):
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)]
    write_rows(tmp_path / "sums.jsonl", rows)
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "schema.json").write_text('{"type": "object"}', encoding="utf-8")
    (tmp_path / "job.yaml").write_text(SPEC.format(base=tiny_checkpoint), encoding="utf-8")
    data = json.loads(dimba("data", "job.yaml", "--json", cwd=tmp_path).stdout)
    assert (data["format"], data["examples"]) == ("question/answer", 12)
    plan = json.loads(dimba("plan", "job.yaml", "--json", cwd=tmp_path).stdout)
    mine = str(tmp_path / "mine.py")
    targets = [mount["target"] for mount in plan["mounts"]]
    assert f"{mine}:short" in plan["argv"] and {mine, str(tmp_path / "schema.json")} <= set(targets)
    done = dimba("launch", "job.yaml", "--trust-spec", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 prompt × 8 completions per step" not in done.stderr and "a step: 1 prompt × 8 completions" in done.stdout
    [samples] = tmp_path.glob("runs/*/attempts/1/samples.jsonl")
    for sample in map(json.loads, samples.read_text(encoding="utf-8").splitlines()):
        assert sample["rewards"]["short"] == -len(sample["completion"])
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
