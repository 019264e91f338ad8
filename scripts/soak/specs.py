"""Hostile specs against validate and plan: never a traceback, never a container. A table of what came of them.

Each hostile value at each place first, then as many fuzzed specs as are asked for.

PYTHONPATH=. python scripts/soak/specs.py [HOW MANY]
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
from tests.fuzz import ENGINES, one_by_one, specs, survives

MANY = 10_000


def main() -> int:
    """Prints how many came to what; the first traceback is hypothesis's own, with the spec that gives it."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
    came: Counter[str] = Counter()
    phases = [Phase.generate, Phase.shrink]
    how = settings(
        max_examples=many, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=phases
    )

    @how
    @given(data=specs(), engine=st.sampled_from(ENGINES))
    def tried(data: bytes, engine: EngineFacts) -> None:
        came[survives(data, engine, Path.cwd())] += 1

    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        hollow_checkpoint(Path("base"))
        write_rows(Path("data.jsonl"), QUESTIONS)
        Path("job.yaml").write_text(SPEC, encoding="utf-8")
        for data in one_by_one():
            came[survives(data, ENGINES[0], Path.cwd())] += 1
        tried()
    for what, count in came.most_common():
        print(f"{what:>12}  {count:>6,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
