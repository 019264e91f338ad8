"""Feeds hostile specs to validate and plan, which must neither crash nor start a container; prints the outcomes.

Tries each hostile value at each key, then fuzzed specs.

PYTHONPATH=. python scripts/soak/specs.py [COUNT]
"""

import contextlib
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dimba.host.facts import EngineFacts
from tests.conftest import QUESTIONS, SPEC, hollow_checkpoint, write_rows
from tests.fuzz import ENGINES, outcome, single_changes, specs

COUNT = 10_000


def main() -> int:
    """Print the number of each outcome; a crash ends in hypothesis's traceback, with the spec that causes it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    outcomes: Counter[str] = Counter()
    phases = [Phase.generate, Phase.shrink]
    fuzzing = settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=phases
    )

    @fuzzing
    @given(data=specs(), engine=st.sampled_from(ENGINES))
    def try_fuzzed(data: bytes, engine: EngineFacts) -> None:
        outcomes[outcome(data, engine, Path.cwd())] += 1

    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        hollow_checkpoint(Path("base"))
        write_rows(Path("data.jsonl"), QUESTIONS)
        Path("job.yaml").write_text(SPEC, encoding="utf-8")
        for data in single_changes():
            outcomes[outcome(data, ENGINES[0], Path.cwd())] += 1
        try_fuzzed()
    for name, number in outcomes.most_common():
        print(f"{name:>12}  {number:>6,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
