"""Rows of an evaluation in a data set of the Hub, read from the cache."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, write_rows
from tests.hub import at, hub

pytestmark = pytest.mark.proof


def row(n: int) -> dict[str, str]:
    return {"question": f"What is {n} + {n}?", "answer": f"It is {n + n}."}


def words(n: int) -> list[str]:
    return f"what is {n} + {n} it is {n + n}".split()


def overlaps(rows: dict[int, list[str]]) -> list[dict[str, Any]]:
    columns = {"prompt": "question", "response": "answer"}
    source = json.dumps({"dataset": "owner/sums", "split": "train", "columns": columns})
    command = [sys.executable, "-m", "dimba.trainers.data.overlaps", source]
    asked = json.dumps(rows) + "\n"
    done = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_rows_that_stand_in_cached_data_of_the_hub_are_found_without_a_network_and_none_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_rows(tmp_path / "repository" / "train.jsonl", [row(n) for n in range(12)])
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with hub({"datasets/owner/sums": tmp_path / "repository"}) as address:
        at(address, monkeypatch)
        assert overlaps({0: words(3)})[-1] == {"done": 12}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    *found, last = overlaps({0: words(3), 1: words(50), 2: words(11)})
    assert last == {"done": 12}
    places = {each["overlap"]["number"]: each["overlap"]["training"] for each in found if "overlap" in each}
    assert sorted(places) == [0, 2] and places[2].endswith("row 12")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "another"))
    [refused] = overlaps({0: words(3)})
    assert "owner/sums" in refused["error"]["cause"] + refused["error"]["key"]
