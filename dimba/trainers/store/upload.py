"""Sends a run's checkpoints to its store while it trains, and what is left at its end. Never ends the training."""

import json
import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.output_store import ALL_SENT, MODEL, SENT, STORE_FILE, TAKEN_OVER, StoreState, join, pace
from dimba.common.units import size, span
from dimba.trainers.store.bundles import remove_older, send, step_in
from dimba.trainers.store.clock import End, Heartbeat
from dimba.trainers.store.filesystem import open_store
from dimba.trainers.store.problems import in_words, kind_of
from dimba.trainers.store.run_files import RunFiles
from dimba.trainers.store.snapshots import (
    best_of,
    identity,
    newest_and_best,
    remove_snapshots,
    snapshot,
    trained_model,
)
from dimba.trainers.store.writer import end as end_writer

_POLL = 2.0  # seconds between two looks for a new checkpoint
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0  # seconds after a failure


@dataclass(frozen=True, kw_only=True)
class Places:
    """The run, and where its files are."""

    address: str  # of the store
    run_id: str
    writer: str
    output: Path
    attempt: Path  # the folder of the attempt; two above it is that of the run

    @classmethod
    def from_environment(cls) -> "Places":
        """As the launcher sets them."""
        run_id = os.environ[contract.ENV_RUN_ID]
        return cls(
            address=os.environ[contract.ENV_STORE],
            run_id=run_id,
            writer=os.environ.get(contract.ENV_STORE_WRITER) or run_id,
            output=Path(os.environ[contract.ENV_OUTPUT_DIR]),
            attempt=Path(os.environ[contract.ENV_ATTEMPT_DIR]),
        )


@dataclass
class Sending:
    """The folder that is being sent, and its bytes."""

    name: str = ""
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"sending {self.name}: {size(self.done)} of {size(self.total)}" if self.name else ""


class Upload:
    """The uploads of one process; with `how` training ended, one that sends what is left."""

    def __init__(self, places: Places, how: str = "") -> None:
        self._places = places
        self._store = open_store(join(places.address, places.run_id))
        self._heart = Heartbeat(self._store, places.writer)
        self._files = RunFiles(self._store, places.attempt.parents[1])
        self._state = StoreState(address=places.address)
        self._end = End(self._last_word, self._progress)
        self._there: dict[str, tuple[str, int]] = {}  # what was sent, by name
        self._sending = Sending()
        self._failed_at: float | None = None  # monotonic seconds
        self._reported: set[str] = set()  # kinds of failures since the last success
        self._pause = _FIRST_PAUSE
        if how:
            self._end.come(how)
        else:
            self._end.listen()

    def run(self) -> int:
        """Sends until training has ended and all is sent; returns the exit status."""
        self._heart.start()
        status = None
        while status is None:
            try:
                status = self._step(self._end.how)
            except Exception as error:  # each library of a store has its own
                self._fails(error)
            else:
                self._answers()
        return status

    def _step(self, how: str) -> int | None:
        """Sends one thing, or waits; returns an exit status once nothing is left to do."""
        wanted = self._wanted(how)
        self._note(pending=tuple(wanted))
        self._heart.beat_once()
        if self._heart.is_taken_over:
            print("another machine continues this run: nothing more is sent from here", flush=True)
            return TAKEN_OVER
        self._files.send_once()
        if any(self._send(name, place) for name, place in wanted.items()):
            return None
        if how:
            return self._finish(how)
        self._end.wait(_POLL * pace())
        return None

    def _wanted(self, how: str) -> dict[str, Path]:
        """The folders that are not in the store yet, the most important first."""
        output = self._places.output
        found = {MODEL: output} if how == SENT and MODEL not in self._there and trained_model(output) else {}
        for each in newest_and_best(output):
            with suppress(OSError):  # the trainer removes it at this moment
                if self._there.get(each.name) != identity(each):
                    found[each.name] = each
        return found

    def _send(self, name: str, place: Path) -> bool:
        """Sends a folder; returns whether it was there to send."""
        bundle = trained_model(place) if name == MODEL else snapshot(place)
        if bundle is None:
            return False
        remove_snapshots(self._places.output, kept=bundle)
        began, self._sending = time.monotonic(), Sending(name, 0, bundle.size)
        send(self._store, bundle, self._count)
        seconds = time.monotonic() - began
        print(f"{name} is in the store ({size(self._sending.total)}, {span(seconds)})", flush=True)
        self._there[name] = (name, 0) if name == MODEL else (name, identity(bundle.folder)[1])
        self._sending = Sending()
        remove_snapshots(self._places.output)
        self._keep_newest()
        self._files.send()
        return True

    def _count(self, count: int) -> None:
        self._sending.done += count

    def _keep_newest(self) -> None:
        """Removes the checkpoints before the newest, but for the best, once the newest is complete there."""
        there = [name for name in self._there if step_in(name) >= 0]
        local = newest_and_best(self._places.output)
        if not there or not local:
            return
        newest, best = max(there, key=step_in), best_of(local[0])
        kept = {newest, *([best.name] if best else [])}
        remove_older(self._store, kept)
        self._there = {name: value for name, value in self._there.items() if name in (MODEL, *kept)}
        self._note(newest=newest, best=best.name if best and best.name in self._there else None)

    def _finish(self, how: str) -> int:
        self._files.send(at_end=True)
        self._heart.stop()
        end_writer(self._store, self._places.writer, how)
        remove_snapshots(self._places.output)
        self._note(pending=(), problem="")
        return ALL_SENT

    def _answers(self) -> None:
        if self._failed_at is not None:
            print(f"the store answers again after {span(time.monotonic() - self._failed_at)}", flush=True)
            self._note(problem="")
        self._failed_at, self._pause = None, _FIRST_PAUSE
        self._reported.clear()

    def _fails(self, error: Exception) -> None:
        """Reports a failure once, and waits, longer each time."""
        self._failed_at = self._failed_at or time.monotonic()
        kind, cause = kind_of(error), in_words(error, "writing")
        self._note(problem=cause)
        if self._end.how not in ("", SENT) and not self._state.pending:
            self._end.give_up()  # a job that was refused at its start must not wait to send its log
        if kind not in self._reported:
            self._reported.add(kind)
            goes_on = "it tries again" if self._end.how else "training continues, and it tries again"
            print(f"warning: {self._places.address}: {cause}; {goes_on}", flush=True)
        self._end.wait(self._pause * random.uniform(0.8, 1.2) * pace())  # noqa: S311  # spreads several jobs
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _progress(self) -> str:
        waits = f"the store has failed for {span(time.monotonic() - self._failed_at)}" if self._failed_at else ""
        return "; ".join(filter(None, (str(self._sending), waits)))

    def _last_word(self) -> None:
        pending = self._state.pending or self._wanted(self._end.how)  # the time may be over before the first step
        left = ", ".join(pending) or "the record of the run"
        problem = f" ({self._state.problem})" if self._state.problem else ""
        print(
            f"warning: the time is over, and not in {self._places.address}: {left}{problem}\n"
            f"hint: `dimba resume {self._places.run_id}` sends it",
            flush=True,
        )

    def _note(self, **changes: Any) -> None:
        """Writes what the store has into the attempt's folder, where the launcher reads it."""
        changed = replace(self._state, **changes)
        if changed == self._state and (self._places.attempt / STORE_FILE).exists():
            return
        self._state = changed
        part = self._places.attempt / f".{STORE_FILE}.part"
        with suppress(OSError):
            part.write_text(json.dumps(changed.as_json()), encoding="utf-8")
            part.replace(self._places.attempt / STORE_FILE)
