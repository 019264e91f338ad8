"""A container gets what links lead to, at the paths at which its own kernel looks for it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dimba.host.data import look_at_data
from dimba.host.links import links_out_of
from dimba.spec import Dataset
from tests.conftest import QUESTIONS, write_rows
from tests.dataset.test_find import saved


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_rows(path, QUESTIONS)


def link(path: Path, target: str | Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def relative_link_in_a_linked_folder(top: Path) -> Path:
    file(top / "store" / "blobs" / "1")
    link(top / "store" / "set" / "a.jsonl", "../blobs/1")
    link(top / "data" / "set", "../store/set")
    return top / "data" / "set" / "a.jsonl"


def same_names_inside_of_the_folder(top: Path) -> Path:
    file(top / "data" / "blobs" / "1")  # another file, where `..` would lead without following the link
    return relative_link_in_a_linked_folder(top)


def link_whose_text_crosses_a_link(top: Path) -> Path:
    file(top / "disk" / "blobs" / "1")
    (top / "disk" / "inner").mkdir()
    link(top / "data" / "side", top / "disk" / "inner")
    return link(top / "data" / "a.jsonl", "side/../blobs/1")


def chain_of_links(top: Path) -> Path:
    file(top / "disk" / "2")
    link(top / "middle" / "1", "../disk/2")
    return link(top / "data" / "a.jsonl", "../middle/1")


def chain_back_into_the_folder(top: Path) -> Path:
    file(top / "data" / "real" / "a")
    link(top / "store" / "a", "../data/real/a")
    return link(top / "data" / "a.jsonl", "../store/a")


def folder_in_a_linked_folder(top: Path) -> Path:
    file(top / "deep" / "2" / "a.jsonl")
    link(top / "store" / "more", "../deep/2")
    link(top / "data" / "set", top / "store")
    return top / "data" / "set" / "more" / "a.jsonl"


def data_behind_a_link(top: Path) -> Path:
    file(top / "disk" / "blobs" / "1")
    link(top / "disk" / "data" / "a.jsonl", "../blobs/1")
    link(top / "data", "disk/data")
    return top / "data" / "a.jsonl"


CASES = [
    relative_link_in_a_linked_folder,
    same_names_inside_of_the_folder,
    link_whose_text_crosses_a_link,
    chain_of_links,
    chain_back_into_the_folder,
    folder_in_a_linked_folder,
    data_behind_a_link,
]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_kernel_that_sees_only_the_mounts_finds_the_file(tmp_path: Path, make: Callable[[Path], Path]):
    top = tmp_path / "top"
    seen = make(top)
    mounts = [(top / "data", top / "data"), *links_out_of(top / "data", [seen])]
    expected = seen.resolve()
    shutil.move(top, tmp_path / "host")  # only what is mounted is where it was
    for target, real in mounts:
        if not target.exists():
            source = tmp_path / "host" / real.relative_to(top)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = ["cp", "-r", "--no-dereference", str(source.resolve()), str(target)]
            subprocess.run(copy, check=True)
    assert seen.read_bytes() == (tmp_path / "host" / expected.relative_to(top)).read_bytes()


def test_links_that_stay_inside_need_no_mount(tmp_path: Path):
    file(tmp_path / "data" / "real" / "a")
    inside = [
        link(tmp_path / "data" / "a.jsonl", "real/a"),
        link(tmp_path / "data" / "b.jsonl", tmp_path / "data/real/a"),
    ]
    assert links_out_of(tmp_path / "data", inside) == ()


@pytest.mark.parametrize("target", ["loop", "./loop/loop", "../data/loop/x", "absent", "../absent/y"])
def test_links_that_lead_nowhere_need_no_mount(tmp_path: Path, target: str):
    assert links_out_of(tmp_path / "data", [link(tmp_path / "data" / "loop", target)]) == ()


def test_the_files_that_describe_a_saved_data_set_are_mounted_with_it(tmp_path: Path):
    store = saved(tmp_path / "store")
    for each in store.iterdir():
        link(tmp_path / "data" / each.name, f"../store/{each.name}")
    link(tmp_path / "data" / "empty.arrow", file(tmp_path / "store" / "empty"))
    facts = look_at_data(Dataset(path=str(tmp_path / "data")), tmp_path, lambda _rows: None, "sft")
    assert {seen.name for seen, _ in facts.linked_files} == {
        "data-00000-of-00002.arrow",
        "data-00001-of-00002.arrow",
        "dataset_info.json",
        "state.json",
    }
