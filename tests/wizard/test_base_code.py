"""A base with code of its own, or without a mask token, is asked about in step 2; the answers are in the spec."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import Dimba

LLADA = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "auto_map": {"AutoModel": "m.Model"}}


@pytest.fixture
def asked(place: Path, dimba: Dimba):
    base = place / "checkpoints" / "base"

    def ask(config: dict[str, Any], *flags: str) -> tuple[int, str, dict[str, Any]]:
        written = {**json.loads((base / "config.json").read_text()), **config}
        (base / "config.json").write_text(json.dumps(written), encoding="utf-8")
        tokens = {
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
            "added_tokens": [{"id": 1, "content": "<m>"}],
        }
        (base / "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
        given = ("--dataset", "./qa.jsonl", "--method", "lora", "--gpus", "none", "--runner", "process", "--vram", "8")
        done = dimba("wizard", "--defaults", *given, "--out", "job.yaml", "--no-launch", *flags, cwd=place)
        file = place / "job.yaml"
        spec = YAML(typ="safe").load(file.read_text()) if file.exists() else {}
        return done.returncode, done.stdout + done.stderr, spec

    return ask


def test_the_answers_are_in_the_spec(asked: Any):
    _, output, spec = asked(LLADA, "--trust-remote-code", "yes", "--mask-token", "<m>")
    assert spec.get("trainer_args") == {"trust-remote-code": True, "mask-token": "<m>"}, output


def test_a_base_that_needs_an_answer_gets_none_by_default(asked: Any):
    status, output, spec = asked(LLADA, "--trust-remote-code", "yes")
    assert status == 2 and "no answer for --mask-token" in output and not spec
    status, output, spec = asked({**LLADA, "mask_token_id": 1})
    assert status == 2 and "contains code of its own" in output and not spec


def test_a_mask_token_that_the_tokenizer_lacks_is_refused_at_its_question(asked: Any):
    status, output, _ = asked(LLADA, "--trust-remote-code", "yes", "--mask-token", "<mask>")
    assert status == 2 and "--mask-token: the tokenizer has no token `<mask>`" in output


def test_another_base_has_no_such_question(asked: Any):
    _, output, _ = asked({}, "--trust-remote-code", "yes", "--mask-token", "<m>")
    assert "ignored: --trust-remote-code yes" in output and "ignored: --mask-token <m>" in output
