"""Kills an upload many times at random moments, while its network fails: nothing may be half there, or lost.

PYTHONPATH=. python scripts/soak/store.py [KILLS [SEED]]
"""

import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from dimba.trainers.store.__main__ import main as store_command
from dimba.trainers.store.bundles import step_in
from tests.stores import (
    BUCKET,
    LOGIN,
    PACE,
    FaultyNetwork,
    Uploading,
    environment,
    run_in_store,
    s3_server,
    save_checkpoint,
    verified,
)

KILLS = 30
FAILURES = ("lost", "not verified", "not resumable")
FAULTS = ("", "", "slow", "slow", "cut", "shorten", "refuse", "no-right", "broken", "hang")


@dataclass
class Soak:
    """The run whose uploads are killed, and what was found."""

    folder: Path
    network: FaultyNetwork
    chance: random.Random
    newest: int = 0  # step in the store
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("kills", *FAILURES), 0))

    def kill_one(self, step: int) -> None:
        """Kills an upload of a new checkpoint; the newest complete one in the store must not be older than before."""
        save_checkpoint(self.folder / "out", step, size=self.chance.randrange(10_000, 3_000_000))
        self.network.fault = self.chance.choice(FAULTS)
        upload = Uploading(environment(self.folder, self.network.url))
        time.sleep(self.chance.uniform(0.3, 2.5))  # from before its first request to after its last
        upload.kill()
        self.network.fault = ""
        self.found["kills"] += 1
        try:
            newest = max(map(step_in, verified(run_in_store(), self.folder)), default=0)
        except AssertionError:
            self.found["not verified"] += 1
            return
        self.found["lost"] += newest < self.newest
        self.found["not resumable"] += newest > 0 and not _comes_back(self.folder / f"there-{step}")
        self.newest = newest

    def end(self, step: int) -> None:
        """Lets the last upload end: the newest checkpoint, and it alone, must be there."""
        status, _ = Uploading(environment(self.folder, self.network.url)).end()
        self.found["lost"] += status != 0 or verified(run_in_store(), self.folder) != [f"checkpoint-{step}"]


def main() -> int:
    """Print the result; returns 1 if anything was lost or half there."""
    kills, seed = [*map(int, sys.argv[1:]), *(KILLS, 0)[len(sys.argv) - 1 :]][:2]
    with tempfile.TemporaryDirectory() as name, s3_server() as port:
        os.environ.update(LOGIN, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", DIMBA_STORE_PACE=PACE)
        soak = Soak(Path(name), FaultyNetwork(port), random.Random(seed))
        for step in range(1, kills + 1):
            soak.kill_one(step)
        soak.end(kills)
    print(json.dumps(soak.found))
    return int(any(soak.found[name] for name in FAILURES))


def _comes_back(folder: Path) -> bool:
    folder.mkdir()
    return store_command(["bring", BUCKET, "r", "here", str(folder)]) == 0 and any(folder.glob("checkpoint-*"))


if __name__ == "__main__":
    sys.exit(main())
