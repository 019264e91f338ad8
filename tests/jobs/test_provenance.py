"""What a record says of what made a model, and a run that is repeated from it."""

import json
import subprocess
from pathlib import Path

import pytest

from dimba.common.contract import DIFF_FILE
from dimba.host import fingerprint as prints
from dimba.host.fingerprint import fingerprint
from dimba.host.provenance import _diff, hub_commits
from dimba.jobs.recorded import cut_diff as _cut
from dimba.records import RunFolder
from dimba.spec.secrets import mask_secrets
from tests.conftest import Dimba

TRAINING = "training: {batch_size: 2, grad_accumulation_steps: 1, max_steps: 4, max_length: 64, seed: 7}\n"


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def silent(_done: int, _total: int) -> None:
    """Nobody looks."""


def test_a_fingerprint_is_of_names_and_contents(tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    assert fingerprint(one, silent) == fingerprint(other, silent)
    (other / "b").rename(other / "c")
    assert fingerprint(one, silent) != fingerprint(other, silent)
    (one / "a").write_text("3")
    before = fingerprint(other, silent)
    (other / "a").write_text("3")
    assert fingerprint(other, silent) != before
    assert fingerprint(tmp_path / "none", silent) is None


def test_an_evaluation_beside_the_weights_makes_no_other_base(tmp_path: Path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    before = fingerprint(folder, silent)
    (folder / "eval.json").write_text("{}", encoding="utf-8")
    assert fingerprint(folder, silent) == before


def test_what_has_not_changed_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "rows.jsonl"
    file.write_text("a")
    made = fingerprint(file, silent)
    monkeypatch.setattr(prints, "file_hash", lambda *_: pytest.fail("read again"))
    assert fingerprint(file, silent) == made


def test_a_diff_holds_files_that_git_does_not_know_and_no_secret(tmp_path: Path):
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("one = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "a.py").write_text("key = 'correct horse battery'\ntoken = 'hf_abcdefghijklmnopqrstuv'\n")
    (tmp_path / "new.py").write_text("x")
    made = mask_secrets(_diff(tmp_path), ["correct horse battery", "short"])
    assert "+key = '***'" in made and "+token = '***'" in made and "?? new.py sha256:2d711642" in made


def test_a_long_diff_lies_beside_the_record(tmp_path: Path):
    folder = RunFolder(tmp_path, 0, 0)
    assert _cut({"git_diff": "x"}, folder) == {"git_diff": "x"} and not (tmp_path / DIFF_FILE).exists()
    cut = _cut({"git_diff": "x" * 200_000}, folder)["git_diff"]
    assert len(cut) < 70_000 and DIFF_FILE in cut and (tmp_path / DIFF_FILE).read_text() == "x" * 200_000


def test_what_came_from_the_hub_is_known_by_its_commit(tmp_path: Path):
    ref = tmp_path / "hub" / "models--org--base" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("abc123")
    base, rows = {"reference": "org/base", "local": False}, {"reference": "org/rows", "local": False}
    assert hub_commits({"writable": [str(tmp_path)], "checkpoint": base, "data": rows}) == {
        "base_hash": "commit:abc123",
        "commits": {"models/org/base": "abc123"},
    }
    assert hub_commits({}) == {}
    pinned, local = {**rows, "revision": "d" * 40}, {"reference": "/data/rows.jsonl", "local": True}
    mixed = {"writable": [str(tmp_path)], "data": {"local": False, "sources": [pinned, local]}}
    assert hub_commits(mixed) == {"commits": {"datasets/org/rows": "d" * 40}}, "its hash is that of the files"


def losses(run: dict, folder: Path) -> list[float]:
    lines = (folder / "runs" / run["id"] / "attempts" / "1" / "metrics.jsonl").read_text().splitlines()
    return [value["loss"] for line in lines if "loss" in (value := json.loads(line))]


@pytest.mark.proof
def test_a_run_is_repeated_to_the_last_bit_and_not_on_other_data(tiny_job: Path, dimba: Dimba):
    spec = tiny_job / "job.yaml"
    spec.write_text(spec.read_text(encoding="utf-8").partition("training:")[0] + TRAINING + "runner: process\n")
    assert dimba("launch", "job.yaml", "--set", "resources.gpus=none", cwd=tiny_job).returncode == 0
    (first,) = json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)
    assert first["base_hash"].startswith("sha256:") and first["data_hash"].startswith("sha256:")
    assert first["seed"] == 7 and first["command"][:2] == ["dimba", "launch"]
    said = json.loads((tiny_job / "runs" / first["id"] / "attempts" / "1" / "learning.json").read_text())
    assert first["learned"] is True and said["changed_tensors"] and said["continuations"]
    assert said == {"learned": True, **first["learning"]}, "the record has what the trainer reported"
    spec.write_text("what it says now is of no account")
    again = dimba("launch", "--same-as", first["id"], cwd=tiny_job)
    assert again.returncode == 0, again.stderr
    assert "not as in" not in again.stderr
    second = json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)[-1]
    assert second["same_as"] == first["id"] and second["output_dir"] == first["output_dir"] + "-again"
    assert losses(first, tiny_job) == losses(second, tiny_job) and len(losses(first, tiny_job)) == 4
    with (tiny_job / "data.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"question": "one more", "answer": "row"}\n')
    other = dimba("launch", "--same-as", first["id"], cwd=tiny_job)
    assert other.returncode == 2 and "dataset: its files have changed" in other.stderr and "job.yaml" in other.stderr
    assert len(json.loads(dimba("ps", "-a", "--json", cwd=tiny_job).stdout)) == 2


def test_launch_wants_a_spec_or_a_run(tmp_path: Path, dimba: Dimba):
    for words in (("launch",), ("launch", "job.yaml", "--same-as", "x")):
        assert dimba(*words, cwd=tmp_path).returncode == 2
    missing = dimba("launch", "--same-as", "x", cwd=tmp_path)
    assert missing.returncode == 2 and "no run `x`" in missing.stderr
