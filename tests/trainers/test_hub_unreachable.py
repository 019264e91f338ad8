"""A Hub that does not answer: cached copies are used, or the trainer refuses within seconds, without retries."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from dimba.common.errors import HostCannot
from dimba.objectives.grpo import GRPO
from dimba.objectives.sft import SFT
from dimba.options.trainer import TrainerOptions
from dimba.trainers import hub as asked
from tests.conftest import QUESTIONS, REPOSITORY, write_rows
from tests.hub import hub

REFUSES = "http://127.0.0.1:9"


def options(*flags: str, base: str = "some/model", data: str = "some/rows", mode: object = SFT) -> TrainerOptions:
    return mode.parse(["--base-checkpoint", base, "--dataset", data, "--output-dir", "out", *flags])  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An empty cache, and a Hub that refuses connections."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": REFUSES, "HF_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(asked, "_SECONDS", 0.4)
    monkeypatch.setattr(asked.time, "sleep", lambda _seconds: None)


def cache_model(name: str, files: dict[str, str]) -> Path:
    folder = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc", encoding="utf-8")
    for file, text in files.items():
        (snapshot / file).write_text(text, encoding="utf-8")
    return snapshot


def cache_data(name: str = "some___rows") -> None:
    folder = Path(constants.HF_HOME, "datasets", name, "default", "0.0.0", "abc")
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")


WHOLE = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": ""}
INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})


def test_nothing_is_requested_for_local_files_or_in_offline_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asked, "_problem", lambda _name: pytest.fail("the Hub was asked"))
    assert asked.use_cache_if_unreachable(options(base=str(tmp_path), data="data/rows.jsonl")) == ""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert asked.use_cache_if_unreachable(options()) == ""


def test_complete_copies_are_used_offline_with_one_line():
    cache_model("some/model", WHOLE)
    cache_data()
    note = asked.use_cache_if_unreachable(options())
    assert note.startswith(f"{REFUSES} does not answer (") and "\n" not in note
    assert note.endswith("using the cached copy of some/model and of some/rows")
    assert constants.is_offline_mode() and os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        ({"config.json": "{}", "tokenizer.json": "{}"}, "without model.safetensors"),
        ({"tokenizer.json": "{}", "model.safetensors": ""}, "without config.json"),
        ({"config.json": "{}", "model.safetensors": ""}, "without its tokenizer"),
        (
            {"config.json": "", "vocab.json": "", "model.safetensors.index.json": INDEX, "model-1.safetensors": ""},
            "without model-2.safetensors",
        ),
        ({"config.json": "{}", "tokenizer.json": "{}", "pytorch_model.bin": ""}, "without model.safetensors"),
    ],
)
def test_an_incomplete_copy_is_refused_by_its_first_missing_file(files: dict[str, str], lacking: str):
    cache_model("some/model", files)
    with pytest.raises(HostCannot, match=lacking) as raised:
        asked.use_cache_if_unreachable(options(data="data/rows.jsonl"))
    assert raised.value.key == "--base-checkpoint" and "hf download some/model`" in raised.value.hint
    assert not constants.is_offline_mode()


def test_pickled_weights_and_shards_are_complete_copies_and_a_preview_needs_no_weights():
    cache_model("pickled/one", {"config.json": "", "tokenizer.model": "", "pytorch_model.bin": ""})
    shards = {"model.safetensors.index.json": INDEX, "model-1.safetensors": "", "model-2.safetensors": ""}
    cache_model("sharded/one", {"config.json": "", "vocab.txt": "", **shards})
    cache_model("no/weights", {"config.json": "", "tokenizer.json": ""})
    for base, flags, weights in [
        ("pickled/one", ["--allow-pickle"], True),
        ("sharded/one", [], True),
        ("no/weights", [], False),
    ]:
        constants.HF_HUB_OFFLINE = False
        given = options(*flags, base=base, data="data/rows.jsonl")
        assert base in asked.use_cache_if_unreachable(given, weights=weights)


def test_data_and_reward_models_are_asked_for_too(tmp_path: Path):
    cache_model("some/model", WHOLE)
    with pytest.raises(HostCannot, match=r"some/rows is no path here.*no copy of it") as raised:
        asked.use_cache_if_unreachable(options())
    assert raised.value.key == "--dataset" and "--repo-type dataset" in raised.value.hint
    given = options("--reward-model", "a/judge", base=str(tmp_path), data="data/rows.jsonl", mode=GRPO)
    with pytest.raises(HostCannot, match="a/judge") as raised:
        asked.use_cache_if_unreachable(given)
    assert raised.value.key == "--reward-model"
    cache_data("some___camel_case")
    assert asked.use_cache_if_unreachable(options(data="some/CamelCase")).endswith("some/CamelCase")


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404])
def test_a_hub_that_refuses_a_file_has_answered(status: int, monkeypatch: pytest.MonkeyPatch):
    answer_with(monkeypatch, status)
    assert asked.use_cache_if_unreachable(options()) == ""


@pytest.mark.parametrize(("status", "wait", "requests"), [(500, "", 2), (503, "2", 2), (429, "600", 1), (407, "x", 1)])
def test_a_busy_hub_is_asked_again_only_if_that_is_soon(
    status: int, wait: str, requests: int, monkeypatch: pytest.MonkeyPatch
):
    seen = answer_with(monkeypatch, status, {"Retry-After": wait} if wait else {})
    with pytest.raises(HostCannot, match=f"HTTP {status}"):
        asked.use_cache_if_unreachable(options())
    assert seen == [f"{REFUSES}/some/model/resolve/main/config.json"] * requests


def answer_with(monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str] | None = None) -> list[str]:
    seen: list[str] = []

    def head(address: str, **_: object) -> SimpleNamespace:
        seen.append(address)
        return SimpleNamespace(status_code=status, headers=headers or {})

    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: SimpleNamespace(head=head))
    return seen


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_and_an_unknown_name_are_refused(silent: str, monkeypatch: pytest.MonkeyPatch):
    for address in (silent, "http://no.such.host.invalid", "not-an-address"):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        began = time.monotonic()
        with pytest.raises(HostCannot, match="does not answer"):
            asked.use_cache_if_unreachable(options())
        assert time.monotonic() - began < 3


@pytest.mark.proof
def test_a_trainer_without_a_network_trains_from_the_cache_or_refuses_within_10_s(
    tiny_checkpoint: Path, tmp_path: Path, silent: str
):
    data = tmp_path / "data"
    write_rows(data / "train.jsonl", QUESTIONS)
    with hub({"tiny/llama": tiny_checkpoint, "datasets/tiny/questions": data}) as endpoint:
        assert _run(endpoint, tmp_path, "first").returncode == 0
    began = time.monotonic()
    refused = _run(silent, tmp_path / "elsewhere", "refused")
    assert time.monotonic() - began < 10
    assert refused.returncode == 3 and "Traceback" not in refused.stderr and "Retry" not in refused.stderr
    cached = _run(silent, tmp_path, "second")
    assert cached.returncode == 0, cached.stdout + cached.stderr
    assert cached.stdout.count("does not answer") == 1 and "Retry" not in cached.stderr


def _run(endpoint: str, cache: Path, output: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache / "cache"), "HF_HUB_OFFLINE": "0"}
    script = REPOSITORY / "scripts" / "finetuning" / "finetune_sft.py"
    named = ["--base-checkpoint", "tiny/llama", "--dataset", "tiny/questions", "--output-dir", str(cache / output)]
    small = ["--use-lora", "--max-steps", "1", "--batch-size", "2", "--grad-accumulation-steps", "1"]
    return subprocess.run(
        [sys.executable, str(script), *named, *small], env=environment, capture_output=True, text=True, check=False
    )
