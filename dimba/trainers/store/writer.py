"""Which machine writes a run in the store: one at a time, known by a note that it renews."""

import json
import secrets
import time
from typing import Any

from dimba.common.errors import BadInput
from dimba.common.output_store import MODEL, OUTDATED, SENT, WRITER, pace
from dimba.common.processes import own_host
from dimba.trainers.store.filesystem import Store
from dimba.trainers.store.problems import KEY

_WAITS, _RUNS, _ENDED = "starting", "running", "ended"


def claim(store: Store, writer: str, *, anyway: bool) -> None:
    """Notes that `writer` continues the run; with `anyway`, whatever another machine does with it.

    Raises:
        BadInput: another machine writes there now, or has ended the run successfully.
    """
    found = store.read_json(WRITER)
    is_another = bool(found) and found.get("writer") != writer and not anyway
    if is_another and found.get("how") == SENT:
        hint = f"its model is in the store, in `{MODEL}`; --anyway continues from the checkpoints that are here"
        raise BadInput(f"the run succeeded on {found.get('host') or 'another machine'}", hint, key=KEY)
    if is_another and found.get("state") != _ENDED:
        age = _age(store, found)
        if age < OUTDATED * pace():
            raise _in_use(found, age)
    _write(store, writer, _WAITS)


def _in_use(found: dict[str, Any], age: float) -> BadInput:
    hint = "stop it there with `dimba stop`; if that machine is gone, wait five minutes or add --anyway"
    cause = f"the run is active on {found.get('host') or 'another machine'}, which wrote to the store {age:,.0f} s ago"
    return BadInput(cause, hint, key=KEY)


def _age(store: Store, found: dict[str, Any]) -> float:
    """Seconds since the writer's last note, by the store's clock where it keeps one."""
    name = f"clock-{secrets.token_hex(4)}"
    store.put(name, b"now")
    now, written = store.modified(name), store.modified(WRITER)
    store.delete(name)
    if now is None or written is None:
        at = found.get("at")
        return time.time() - (at if isinstance(at, int | float) else 0.0)
    return now - written


def is_taken_over(store: Store, writer: str) -> bool:
    """Whether another machine has continued the run."""
    return store.read_json(WRITER).get("writer") not in (None, writer)


def renew(store: Store, writer: str) -> None:
    """Notes that the writer is alive."""
    _write(store, writer, _RUNS)


def end(store: Store, writer: str, how: str) -> None:
    """Notes that the writer's job has ended, and how."""
    _write(store, writer, _ENDED, how=how)


def _write(store: Store, writer: str, state: str, **more: Any) -> None:
    note = {"writer": writer, "state": state, "host": own_host(), "at": time.time(), **more}
    store.put(WRITER, json.dumps(note).encode())
