"""Killed runs resume without losing anything."""

from pathlib import Path

import pytest

from dimba.common.checkpoints import complete_checkpoints
from tests.kills import dimba, kill_often, record, weights, write_job


@pytest.mark.proof
def test_a_run_killed_at_random_moments_ends_with_the_weights_of_a_quiet_one(tmp_path: Path, tiny_checkpoint: Path):
    quiet, killed = (write_job(tmp_path / name, tiny_checkpoint, steps=400) for name in ("quiet", "killed"))
    assert dimba(quiet, "launch", "job.yaml").returncode == 0
    hit = kill_often(killed, 5, seed=6, quiet=quiet)
    found = record(killed)
    assert found["status"] == "succeeded" and len(found["attempts"]) == hit + 1 >= 4
    assert weights(killed) == weights(quiet)
    kept = complete_checkpoints(killed / "out")
    assert [each.name for each in kept] == [each.name for each in sorted((killed / "out").glob("checkpoint-*"))]
    assert len(kept) == 2 and not (killed / "out" / ".saving").exists()
