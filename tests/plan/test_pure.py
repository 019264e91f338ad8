"""A plan reads no disk. Every plan of these tests is made under `no_disk`; here, that it notices."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plan.pure import no_disk
from tests.plan.test_plan import plan


@pytest.mark.parametrize(
    "look",
    [
        Path("/").exists,
        Path("/").stat,
        Path("/").is_dir,
        Path("/").resolve,
        Path("/etc/hostname").read_text,
        lambda: list(Path("/").iterdir()),
        lambda: os.path.realpath("/"),
        Path.cwd,
    ],
)
def test_a_look_at_the_disk_is_noticed(look: Callable[[], object]):
    with pytest.raises(AssertionError, match="the disk was looked at"), no_disk():
        look()


def test_mounts_and_files_of_the_spec_are_planned_from_facts(tmp_path: Path):
    mounted = plan(f"container: {{mounts: ['{tmp_path}:/extra']}}").mounts[-1]
    assert (mounted.source, mounted.target) == (str(tmp_path), "/extra")
