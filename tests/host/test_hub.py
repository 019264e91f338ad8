"""Facts about models and data sets that the Hub has, lacks, or gates."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dimba.host.hub import endpoint, look_at_dataset, look_at_model, viewer
from tests.conftest import QUESTIONS, hollow_checkpoint, write_rows
from tests.hub import TOKEN, Reply, at, hub, scripted

LISTED = {
    "splits": [
        {"dataset": "some/data", "config": "main", "split": "train"},
        {"dataset": "some/data", "config": "main", "split": "test"},
        {"dataset": "some/data", "config": "other", "split": "validation"},
    ],
    "failed": [{"dataset": "some/data", "config": "broken", "error": {}}],
}
ROWS = {"rows": [{"row_idx": 0, "row": {"q": "1 + 1", "a": '[{"ro'}, "truncated_cells": ["a"]}], "truncated": True}
SIZES = [
    {"config": "main", "split": "train", "num_rows": 7473, "estimated_num_rows": None},
    {"config": "main", "split": "test", "num_rows": 100, "estimated_num_rows": 1319},
]
DATA: dict[str, Reply] = {
    "/api/datasets/some/data": (200, {}, {"id": "some/data", "gated": False}),
    "/splits": (200, {}, LISTED),
    "/first-rows": (200, {}, ROWS),
    "/size": (200, {}, {"size": {"splits": SIZES}}),
}


def test_the_viewers_address_follows_the_hubs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert (endpoint(), viewer()) == ("https://huggingface.co", "https://datasets-server.huggingface.co")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert (endpoint(), viewer()) == ("https://mirror.example", "https://datasets-server.mirror.example")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8080")
    assert endpoint() == viewer() == "http://127.0.0.1:8080"


def test_the_facts_of_a_model_are_found(monkeypatch: pytest.MonkeyPatch):
    facts = {
        "config": {"architectures": ["Qwen3ForCausalLM"], "tokenizer_config": {"chat_template": "{{ x }}"}},
        "safetensors": {"parameters": {"F32": 1, "BF16": 596049920}, "total": 596049921},
        "siblings": [{"rfilename": "tokenizer_config.json"}],
    }
    config = {"max_position_embeddings": 40960}
    replies: dict[str, Reply] = {
        "/api/models/some/model": (200, {}, facts),
        "/some/model/resolve/main/config.json": (200, {}, config),
    }
    with scripted(replies) as (address, seen):
        at(address, monkeypatch, token=TOKEN)
        found = look_at_model("some/model")
    assert (found.status, found.why, found.gated) == ("found", "", False)
    assert (found.architecture, found.parameters, found.dtype) == ("Qwen3ForCausalLM", 596049921, "BF16")
    assert (found.context_length, found.has_chat_template) == (40960, True)
    assert [authorization for _, authorization in seen] == [None, None]


@pytest.mark.parametrize(
    ("facts", "config", "expected"),
    [
        ({}, {"architectures": ["A"], "text_config": {"max_position_embeddings": 8}}, ("A", 8, None)),
        ({"siblings": [{"rfilename": "chat_template.jinja"}]}, {"n_positions": 1024}, (None, 1024, True)),
        ({"siblings": [{"rfilename": "config.json"}]}, {"max_seq_len": 9}, (None, 9, False)),
        ({"config": {"tokenizer_config": {}}}, {"max_position_embeddings": True}, (None, None, False)),
        ({"config": {"chat_template_jinja": "x"}}, [], (None, None, True)),
        ({"config": [], "siblings": {"a": []}, "safetensors": "x"}, {"text_config": 3}, (None, None, None)),
        ({"siblings": [{"rfilename": []}, 3], "safetensors": {"parameters": {"F32": "1"}}}, {}, (None, None, False)),
    ],
)
def test_facts_that_the_hub_does_not_report_are_none(
    facts: object, config: object, expected: object, monkeypatch: pytest.MonkeyPatch
):
    replies: dict[str, Reply] = {
        "/api/models/some/model": (200, {}, facts),
        "/some/model/resolve/main/config.json": (200, {}, config),
    }
    with scripted(replies) as (address, _):
        at(address, monkeypatch)
        found = look_at_model("some/model")
    assert (found.status, found.parameters, found.dtype) == ("found", None, None)
    assert (found.architecture, found.context_length, found.has_chat_template) == expected


def test_the_facts_of_a_dataset_are_found(monkeypatch: pytest.MonkeyPatch):
    with scripted(DATA) as (address, seen):
        at(address, monkeypatch)
        found = look_at_dataset("some/data", "main")
        other = look_at_dataset("some/data", "main", "test[:10%]")
    assert (found.status, found.why, found.configs) == ("found", "", ("main", "other", "broken"))
    assert found.splits == {"main": ("train", "test"), "other": ("validation",), "broken": ()}
    assert (found.config, found.split, found.rows) == ("main", "train", 7473)
    assert (found.first, found.truncated) == ({"q": "1 + 1", "a": '[{"ro'}, ("a",))
    assert (other.status, other.split, other.rows) == ("found", "test[:10%]", None) and other.first
    assert ("/first-rows?dataset=some%2Fdata&config=main&split=test", None) in seen


def test_the_default_config_and_split_are_chosen_if_none_is_named(monkeypatch: pytest.MonkeyPatch):
    listed = {"splits": [{"config": name, "split": "eval"} for name in ("first", "default")]}
    with scripted({**DATA, "/splits": (200, {}, listed)}) as (address, _):
        at(address, monkeypatch)
        found = look_at_dataset("some/data")
        assert (found.config, found.split) == ("default", "eval")
        assert look_at_dataset("some/data", split="all").first == found.first
    with scripted(DATA) as (address, _):
        at(address, monkeypatch)
        assert look_at_dataset("some/data", split="test").rows == 1319


def test_an_unknown_config_or_split_is_reported_with_the_known_ones(monkeypatch: pytest.MonkeyPatch):
    with scripted(DATA) as (address, _):
        at(address, monkeypatch)
        config = look_at_dataset("some/data", "mian")
        split = look_at_dataset("some/data", "main", "train+valid[:5]")
        unread = look_at_dataset("some/data", "broken", "train")
    assert (config.status, config.why) == ("missing_config", "no config `mian`; there are main, other, broken")
    assert (split.status, split.why) == ("missing_split", "no split `valid`; there are train, test")
    assert unread.status == "found"


@pytest.mark.parametrize("broken", ["/splits", "/first-rows", "/size"])
@pytest.mark.parametrize(
    "reply", [(500, {}, {}), (200, {}, b"<html>"), (200, {}, {"rows": 3, "splits": [1], "size": []})]
)
def test_a_failing_viewer_leaves_the_dataset_found(broken: str, reply: Reply, monkeypatch: pytest.MonkeyPatch):
    with scripted({**DATA, broken: reply}) as (address, _):
        at(address, monkeypatch)
        found = look_at_dataset("some/data", "main", "train")
    assert found.status == "found"
    assert (found.splits == {}) == (broken == "/splits")
    assert (found.first is None) == (broken == "/first-rows" or (broken == "/splits" and reply[2] == b"<html>"))


def test_the_stand_in_of_a_hub_answers_as_the_hub_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hollow_checkpoint(tmp_path / "base")
    write_rows(tmp_path / "data" / "train.jsonl", QUESTIONS)
    with hub({"tiny/llama": tmp_path / "base", "datasets/tiny/questions": tmp_path / "data"}) as address:
        at(address, monkeypatch)
        model, data = look_at_model("tiny/llama"), look_at_dataset("tiny/questions")
        assert (model.status, model.architecture) == ("found", "LlamaForCausalLM")
        assert (data.splits, data.rows, data.first) == ({"default": ("train",)}, 12, QUESTIONS[0])
        assert look_at_model("no/body").status == look_at_dataset("no/body").status == "missing"


def test_a_private_model_is_missing_without_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hollow_checkpoint(tmp_path / "base")
    with hub({"tiny/llama": tmp_path / "base"}, private=["tiny/llama"]) as address:
        at(address, monkeypatch)
        without = look_at_model("tiny/llama")
        assert without.status == "missing" and "HF_TOKEN is not set" in without.why
        at(address, monkeypatch, token="hf_of_another")
        assert "may not see it" in look_at_model("tiny/llama").why
        at(address, monkeypatch, token=f"{TOKEN}\n")
        assert look_at_model("tiny/llama").status == "found"


def test_a_gated_repository_reports_its_facts_and_whether_the_token_has_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hollow_checkpoint(tmp_path / "base")
    write_rows(tmp_path / "data" / "train.jsonl", QUESTIONS)
    served = {"tiny/llama": tmp_path / "base", "datasets/tiny/questions": tmp_path / "data"}
    with hub(served, gated=list(served)) as address:
        at(address, monkeypatch)
        model, data = look_at_model("tiny/llama"), look_at_dataset("tiny/questions")
        assert (model.status, model.gated, data.status, data.gated) == ("gated", True, "gated", True)
        assert "HF_TOKEN is not set" in model.why and data.first is None
        at(address, monkeypatch, token=TOKEN)
        model, data = look_at_model("tiny/llama"), look_at_dataset("tiny/questions")
        assert (model.status, model.gated, data.status, data.gated) == ("found", True, "found", True)
        assert data.rows == 12 and model.architecture


def test_importing_hub_and_chat_template_loads_no_slow_library():
    code = "import sys, dimba.host.hub, dimba.host.chat_template; print([*sys.modules])"
    loaded: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("jinja2", "http.client", "urllib.request", "ssl") if f"'{name}'" in loaded]
