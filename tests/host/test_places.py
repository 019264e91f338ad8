"""The paths of a spec lead neither through `..` nor through links to a place that a job may not read or write."""

import os
from pathlib import Path

import pytest

from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.data import look_at_data
from dimba.host.output import look_at_output
from dimba.host.places import why_not_read, why_not_write
from dimba.host.trainer import find_trainer
from dimba.spec import Dataset
from tests.conftest import QUESTIONS, hollow_checkpoint, write_rows

ROOT = os.geteuid() == 0


@pytest.fixture
def login(tmp_path: Path) -> Path:
    """Another user's private key."""
    key = tmp_path / "home" / ".ssh" / "id_rsa"
    key.parent.mkdir(parents=True)
    key.write_text("-----BEGIN KEY-----", encoding="utf-8")
    return key


def up(folder: Path, path: str) -> str:
    """The same path, written with `..`."""
    return f"{'../' * (len(folder.parts) - 1)}{path.removeprefix('/')}"


@pytest.mark.parametrize("place", ["/etc/shadow", "/proc/self/environ", "/dev/null", "/run/x", "/sys/kernel"])
def test_data_of_the_system_are_not_read(tmp_path: Path, place: str):
    link = tmp_path / "data.jsonl"
    link.symlink_to(place)
    for written in (place, up(tmp_path, place), "data.jsonl"):
        facts = look_at_data(Dataset(path=written), tmp_path, lambda _rows: None, "sft")
        assert "belongs to the system" in facts.problem and facts.hint, written
    assert f"leads to {os.path.realpath(place)}" in facts.problem


def test_logins_are_refused_as_data_trainer_and_tokenizer(tmp_path: Path, login: Path):
    (tmp_path / "data.jsonl").symlink_to(login)
    assert "logins" in look_at_data(Dataset(path="data.jsonl"), tmp_path, lambda _rows: None, "sft").problem
    (tmp_path / "train.py").symlink_to(login)
    found = find_trainer("train.py", "sft", tmp_path, tmp_path / "none")
    assert found.path is None and "logins" in found.problem
    base = hollow_checkpoint(tmp_path / "base")
    (base / "tokenizer.json").symlink_to(login)
    facts = look_at_checkpoint("base", tmp_path)
    assert f"has tokenizer.json, which leads to {login}" in facts.problem and not facts.linked_files
    assert "logins" in why_not_read(tmp_path / ".cache" / "huggingface" / "token")


def test_links_of_a_chain_and_of_folders_are_followed(tmp_path: Path, login: Path):
    (tmp_path / "a").symlink_to(login.parent)
    (tmp_path / "b").symlink_to("a")
    assert "logins" in why_not_read(tmp_path / "b" / "id_rsa")


def test_links_to_ordinary_places_are_accepted(tmp_path: Path):
    elsewhere = hollow_checkpoint(tmp_path / "disk" / "base")
    write_rows(tmp_path / "disk" / "rows.jsonl", QUESTIONS)
    (tmp_path / "base").symlink_to(elsewhere)
    (tmp_path / "data.jsonl").symlink_to("disk/rows.jsonl")
    assert not look_at_checkpoint("base", tmp_path).problem
    assert not look_at_data(Dataset(path="data.jsonl"), tmp_path, lambda _rows: None, "sft").problem
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    (elsewhere / "config.json").rename(blob)
    (elsewhere / "config.json").symlink_to(blob)
    assert (blob, blob) in look_at_checkpoint("base", tmp_path).linked_files or not ROOT


def test_a_link_to_itself_is_refused_without_a_crash(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    assert look_at_data(Dataset(path="loop"), tmp_path, lambda _rows: None, "sft").problem
    assert look_at_checkpoint("./loop", tmp_path).problem
    assert look_at_output("loop", tmp_path).problem


@pytest.mark.parametrize(
    "place", ["/", "/etc", "/etc/x", "/usr/share/x", "/home", "/home/somebody", "/tmp", "/boot/x", "~"]
)
def test_the_output_may_not_be_a_system_folder_nor_an_entire_home(tmp_path: Path, place: str):
    real = os.path.expanduser(place)
    (tmp_path / "out").symlink_to(real)
    for written in (place, up(tmp_path, real), "out"):
        facts = look_at_output(written, tmp_path)
        assert facts.user_error and facts.problem and facts.hint, written


def test_the_output_may_not_be_a_link_to_the_current_folder(tmp_path: Path):
    (tmp_path / "out").symlink_to(".")
    assert "the folder that dimba is run in" in look_at_output("out", tmp_path).problem


def test_the_output_may_lie_below_a_home_or_on_another_disk(tmp_path: Path):
    assert not look_at_output("checkpoints/mine", tmp_path).problem
    for place in (Path.home() / "x", Path("/home/somebody/x"), Path("/mnt/disk/x"), Path("/dev/shm/x")):
        assert not why_not_write(place)


@pytest.mark.skipif(not ROOT, reason="only root can follow links to places that their owners cannot read")
def test_root_does_not_follow_another_users_link_to_a_file_that_user_cannot_read(tmp_path: Path):
    secret, mine = tmp_path / "secret", tmp_path / "mine"
    mine.mkdir()
    secret.write_text("x", encoding="utf-8")
    secret.chmod(0o600)
    (mine / "data.jsonl").symlink_to(secret)
    (mine / "out").symlink_to(tmp_path)
    for path in (mine, mine / "data.jsonl", mine / "out"):
        os.chown(path, 1234, 1234, follow_symlinks=False)
    assert "not theirs" in why_not_read(mine / "data.jsonl")
    assert "not theirs" in why_not_write(mine / "out" / "x")
    secret.chmod(0o644)
    assert not why_not_read(mine / "data.jsonl"), "every user may read it"
    os.chown(mine / "data.jsonl", 0, 0, follow_symlinks=False)
    secret.chmod(0o600)
    assert not why_not_read(mine / "data.jsonl"), "root's own link"
