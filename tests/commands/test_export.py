"""`dimba export`: complete or not there, with cause and next step for what cannot be exported."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.export.folder import aside, keep_earlier, require_free, require_room
from dimba.commands.export.request import ExportRequest
from dimba.common.errors import BadInput, HostCannot
from tests.conftest import NO_ENGINE, REPOSITORY

Dimba = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        ({"hub": "model"}, "`model` is no name of a repository"),
        ({"hub": "../x/y"}, "is no name of a repository"),
        ({"public": True}, "--public is for an upload"),
        ({"merged": True, "gguf": "f16", "out": "x"}, "--out is one folder"),
        ({"merged": True, "gguf": "f16", "hub": "a/b"}, "--hub is one repository"),
        ({"check": "", "hub": "a/b"}, "--check writes nothing"),
    ],
)
def test_flags_that_contradict_each_other_are_refused_with_a_way_out(asked: dict[str, Any], cause: str):
    with pytest.raises(BadInput, match=cause) as refused:
        ExportRequest(model="run", **asked).require_sense()
    assert refused.value.hint


def test_a_failed_export_leaves_neither_its_folder_nor_its_parents(tmp_path: Path):
    target = tmp_path / "new" / "merged"
    with pytest.raises(RuntimeError), aside(target, os.getuid(), os.getgid()) as folder:
        (folder / "model.safetensors").write_text("half")
        assert not target.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_at_once_and_only_by_a_complete_one(tmp_path: Path):
    target = tmp_path / "merged"
    target.mkdir()
    (target / "export.json").write_text("old")
    require_free(target)
    with pytest.raises(KeyboardInterrupt), aside(target, os.getuid(), os.getgid()):
        raise KeyboardInterrupt
    assert (target / "export.json").read_text() == "old"
    with aside(target, os.getuid(), os.getgid()) as folder:
        (folder / "export.json").write_text("new")
    assert (target / "export.json").read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_a_folder_with_something_else_in_it_is_never_replaced(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="exists, and is no export of dimba") as refused:
        require_free(tmp_path)
    assert "--out" in refused.value.hint


def gguf_export(folder: Path, kind: str, run: str) -> Path:
    folder.mkdir()
    (folder / f"tiny-{kind}.gguf").write_text(kind)
    record = {
        "kind": "gguf",
        "type": kind,
        "run": run,
        "files": {f"tiny-{kind}.gguf": {"size": 4}},
        "proof": {"rows": 6},
    }
    (folder / "export.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(("run", "kept"), [("one", True), ("another", False)])
def test_gguf_files_of_other_types_stay_with_their_numbers_if_they_are_of_the_same_run(
    tmp_path: Path, run: str, kept: bool
):
    target, folder = gguf_export(tmp_path / "gguf", "q8_0", run), gguf_export(tmp_path / "new", "f16", "one")
    keep_earlier(target, folder, os.getuid(), os.getgid())
    record = json.loads((folder / "export.json").read_text())
    assert (folder / "tiny-q8_0.gguf").exists() == kept and record["type"] == "f16"
    assert ("others" in record) == kept and (not kept or record["others"]["q8_0"]["proof"] == {"rows": 6})


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path: Path):
    require_room(tmp_path / "merged", 1)
    with pytest.raises(HostCannot, match=r"needs .* GiB, and its disk has .* free"):
        require_room(tmp_path / "merged", 1 << 60)


# The rest runs the command itself, as a process without an engine.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.trainers.export.adapted import family, make_adapter

    folder = tmp_path_factory.mktemp("export")
    make_adapter(family("llama", folder / "base"), folder / "tuned")
    return folder / "tuned"


def run_export(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*words), **_where(cwd), capture_output=True, text=True, check=False)


def _command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "dimba", "export", *map(str, words), "--runner", "process", "--gpus", "none"]


def _where(cwd: Path) -> dict[str, Any]:
    return {"cwd": cwd, "env": {**os.environ, **NO_ENGINE, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}}


@pytest.mark.proof
def test_an_adapter_is_exported_checked_and_refused_once_it_is_spoilt(model: Path, tmp_path: Path):
    from tests.trainers.export.spoil import SPOILINGS

    before = {each.name: each.read_bytes() for each in model.iterdir() if each.is_file()}
    done = run_export(model, "--merged", "--dtype", "bfloat16", cwd=tmp_path)
    merged = model / "merged"
    assert done.stdout == f"{merged}\n" and done.returncode == 0, done.stderr
    assert "equal likeliest tokens" in done.stderr and all(len(line) <= 80 for line in _table(done.stderr))
    assert {name: (model / name).read_bytes() for name in before} == before
    checked = json.loads(run_export(model, "--check", "--json", cwd=tmp_path).stdout)
    assert checked["path"] == str(merged) and checked["proof"]["tensors_equal"] is True
    shutil.copytree(merged, tmp_path / "spoilt")
    SPOILINGS["a layer without its adapter"](tmp_path / "spoilt", model.parent / "base")
    refused = run_export(model, "--check", tmp_path / "spoilt", cwd=tmp_path)
    assert refused.returncode == 1 and "is not what was trained: `model.layers.0." in refused.stderr
    assert "hint: model.safetensors has changed since the export; export it again" in refused.stderr


def _table(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("merged", "compared", "equal", "KL", "largest"))]


@pytest.mark.proof
def test_an_interrupted_export_leaves_nothing_and_ends_with_130(model: Path, tmp_path: Path):
    child = subprocess.Popen(_command(model, "--out", tmp_path / "merged"), **_where(tmp_path), start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".merged.*.part")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(30) == 130 and list(tmp_path.iterdir()) == []


@pytest.mark.proof
def test_a_base_that_is_gone_or_another_one_is_refused_with_the_way_on(model: Path, tmp_path: Path):
    from tests.trainers.export.adapted import family

    config = json.loads((model / "adapter_config.json").read_text())
    lost = tmp_path / "lost"
    shutil.copytree(model, lost, ignore=shutil.ignore_patterns("merged"))
    (lost / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gone")}))
    gone = run_export(lost, cwd=tmp_path)
    assert gone.returncode == 2 and "gone" in gone.stderr and "--base" in gone.stderr
    other = run_export(lost, "--base", family("gpt2", tmp_path / "gpt2"), cwd=tmp_path)
    assert other.returncode == 2 and "does not fit its base" in other.stderr
    assert not (lost / "merged").exists()


@pytest.mark.proof
def test_a_run_is_exported_with_the_rows_that_it_held_out_and_compared_with_the_model_in_memory(tmp_path: Path):
    from dimba.trainers.tiny import make

    make(tmp_path)
    spec = {
        "version": 1, "name": "tiny", "mode": "sft", "method": "lora", "runner": "process",
        "base_checkpoint": "base", "dataset": {"path": "data.jsonl"}, "output_dir": "out",
        "training": {"batch_size": 8, "grad_accumulation_steps": 1, "max_steps": 6, "learning_rate": 2e-3},
        "trainer_args": {"validation-split": 6}, "resources": {"gpus": "none"},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(json.dumps(spec))
    launch = [sys.executable, "-m", "dimba", "launch", "job.yaml"]
    subprocess.run(launch, **_where(tmp_path), check=True, capture_output=True)
    record = json.loads(run_export("tiny", "--json", cwd=tmp_path).stdout)
    assert record["path"] == str(tmp_path / "out" / "merged") and record["run"].startswith("tiny-")
    proof = record["proof"]
    assert (proof["data"], proof["rows"]) == ("rows held out of training", 6)
    assert proof["in_memory"]["agreement"] == 1 and proof["in_memory"]["positions"] > 0
    card = (tmp_path / "out" / "merged" / "README.md").read_text()
    assert "| training loss |" in card and "`data.jsonl`" in card and str(tmp_path) not in card
    before = [each for each in (tmp_path / "out").rglob("*") if each.is_file()]
    assert run_export("tiny", "--check", cwd=tmp_path).returncode == 0
    assert [each for each in (tmp_path / "out").rglob("*") if each.is_file()] == before


@pytest.mark.proof
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_disk_that_fills_up_meanwhile_ends_with_3_and_leaves_nothing(model: Path, tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(small)], check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        done = run_export(model, "--out", small / "merged", cwd=tmp_path)
        assert done.returncode == 3 and "free" in done.stderr and list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.proof
def test_an_upload_is_private_complete_and_leaves_the_token_nowhere(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tests.hub import at
    from tests.trainers.export.hub_writer import Hub, user, writable_hub

    token = "hf_aSecretOfTheTestThatNoFileHolds"
    with writable_hub(Hub(who=user("read"))) as hub:
        at(hub.address, monkeypatch, token=token)
        refused = run_export(model, "--hub", "ada/tiny", "--out", tmp_path / "merged", cwd=tmp_path)
        assert refused.returncode == 2 and "may only read" in refused.stderr and not hub.changes
        assert list(tmp_path.iterdir()) == []
        hub.who = user()
        done = run_export(model, "--hub", "ada/tiny", "--out", tmp_path / "merged", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {"ada/tiny": True} and f"uploaded: {hub.address}/ada/tiny/commit/" in done.stderr
    written = {each.name: each.read_bytes() for each in (tmp_path / "merged").iterdir()}
    assert hub.files["ada/tiny"] == written and not any(token.encode() in each for each in written.values())
    assert token not in refused.stderr + done.stdout + done.stderr
    assert b'from_pretrained("ada/tiny")' in written["README.md"]
