"""Four jobs on two cards."""

from pathlib import Path

import pytest

from dimba.runners.docker.engine import Engine
from tests.queueing import idle_seconds


@pytest.mark.proof
def test_no_card_that_is_waited_for_stands_idle_for_more_than_two_seconds(engine: Engine, tmp_path: Path):
    seen = []
    for attempt in (
        "once",
        "again",
    ):  # one slow start of a container, on a machine that does something else, is not ours
        idle = idle_seconds(engine, tmp_path / attempt)
        assert len(idle) == 2 and sum(map(len, idle.values())) == 2, "two jobs on each card"
        seen.append(max(seconds for card in idle.values() for seconds in card))
        if seen[-1] <= 2:
            return
    pytest.fail(f"a card stood idle for {seen} seconds")
