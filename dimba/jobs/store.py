"""The store of a run, from the host: proved before a GPU is taken, and read when the run is resumed."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.errors import BadInput, DimbaError, HostCannot, RunFailed, from_json
from dimba.common.output_store import (
    ALL_SENT,
    AT_END,
    BRING,
    LOGINS,
    MODULE,
    PACE,
    PROBE,
    SENT,
    UPLOAD,
    local_folder,
    pace,
    protocol_of,
)
from dimba.host.facts import HostFacts
from dimba.host.output import look_at_output
from dimba.jobs.context import JobContext
from dimba.jobs.lifecycle import Reporter, Run
from dimba.jobs.outcome import store_state
from dimba.jobs.place import last_lines, module_command, one_shot
from dimba.plan.store import store_mounts
from dimba.records import RunFolder, RunRecord
from dimba.records.store import make_folder, write_atomically
from dimba.runners.protocol import OneShot, Output
from dimba.runners.registry import host_runner
from dimba.spec import JobSpec, LoadedSpec

_KEY = "output_store"
_HUB_TOKEN = "HF_TOKEN"  # noqa: S105  # a variable's name
_PROBE_SECONDS = 180.0
_BRING_SECONDS = 7 * 24 * 3600.0


def require_store(run: Run, context: JobContext, reporter: Reporter) -> None:
    """Writes, reads, lists and removes a small file where the job will run, and claims the run there.

    Once that has worked for this run, a store that fails is reported: what it lacks is sent when it answers again.

    Raises:
        BadInput: the store cannot be used, or another machine writes the run.
    """
    spec, store = context.spec, run.record.store
    if spec.output_store is None or store is None:
        return
    for mount in store_mounts(spec):
        make_folder(Path(mount.source), context.facts.output.uid, context.facts.output.gid)
    words = (PROBE, spec.output_store, run.folder.id, str(store["writer"]))
    command = module_command(context.facts, MODULE, *words)
    reporter.progress(f"trying {spec.output_store}", 0, 0)
    output = context.runner.run_once(command, _place(spec, context.facts))
    reporter.ended()
    try:
        _answers(output, spec.output_store)
    except DimbaError as error:
        if not store.get("proved"):
            raise context.loaded.locate(error) from None
        reporter.note(f"warning: {error.message}; the run continues, and tries again")
        return
    run.update(store={**store, "proved": True})


def _place(spec: JobSpec, facts: HostFacts) -> OneShot:
    named = tuple(name for name in _logins(spec) if "=" not in name)
    written = dict(item.split("=", 1) for item in _logins(spec) if "=" in item)
    assert spec.output_store is not None
    place = one_shot(
        spec,
        facts,
        store_mounts(spec),
        is_local=local_folder(spec.output_store) is not None,
        further=named,
        timeout=_PROBE_SECONDS,
        host_network=spec.container.network == "host",
    )
    return place.with_environment(written)


def _logins(spec: JobSpec) -> list[str]:
    return [item for item in spec.container.env if item.startswith((*LOGINS, PACE))]


def _answers(output: Output, address: str) -> dict[str, Any]:
    """All values of the JSON lines that a command of the store printed; raises its error."""
    found: dict[str, Any] = {}
    for line in output.text.splitlines():
        found |= _values(line)
    if error := found.get("error"):
        raise from_json(error)
    if output.exit_code is None:
        raise BadInput(f"{address} did not answer in time", "check the address and the network", key=_KEY)
    if output.exit_code:
        raise HostCannot(
            f"{address} could not be tried:\n{last_lines(output.text)}", "`dimba doctor` checks this machine"
        )
    return found


def _values(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def on_host(
    arguments: Sequence[str], address: str, reporter: Reporter, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs a command of the store in this machine's Python, and shows its progress; raises its error."""

    def show(line: str) -> None:
        values = _values(line)
        if note := values.get("note"):
            reporter.note(str(note))
        if progress := values.get("progress"):
            reporter.progress(*progress)

    place = _here(address, environment or {}, _BRING_SECONDS)
    output = host_runner().run_once([sys.executable, "-P", "-m", MODULE, *arguments], place, show)
    reporter.ended()
    return _answers(output, address)


def _here(address: str, environment: Mapping[str, str], timeout: float) -> OneShot:
    """This machine, for its own user; the Hub's token reaches a store on the Hub alone."""
    is_on_hub = protocol_of(address) == "hf" and _HUB_TOKEN in os.environ
    return OneShot(
        uid=os.geteuid(),
        gid=os.getegid(),
        environment=environment,
        secrets={_HUB_TOKEN: os.environ[_HUB_TOKEN]} if is_on_hub else None,
        timeout=timeout,
    )


def bring_newer(
    folder: RunFolder, record: RunRecord, loaded: LoadedSpec, reporter: Reporter, *, anyway: bool, may_fail: bool
) -> None:
    """Copies the store's newest complete checkpoint into the output folder if it is newer than the local one.

    Raises:
        BadInput: the store fails, or another machine writes the run, unless `may_fail`.
    """
    address, store = loaded.spec.output_store, record.store
    output = look_at_output(record.output_dir, Path.cwd())
    if address is None or store is None or (output.holds and output.run_id != folder.id):
        return  # the plan refuses a folder of another run
    words = [BRING, address, folder.id, str(store["writer"]), record.output_dir, *(("--anyway",) if anyway else ())]
    try:
        found = on_host(words, address, reporter, _written(loaded.spec))
    except DimbaError as error:
        if not (may_fail or anyway):
            raise _with_way_out(error, folder, store) from None
        reporter.note(f"warning: {error.message}; continuing with what is here")
        return
    if name := found.get("brought"):
        _give(Path(record.output_dir, str(name)), folder)
        if not output.run_id:
            note = json.dumps({"run_id": folder.id, "run": str(folder.path)}).encode()
            write_atomically(output.path / contract.OUTPUT_FILE, note, folder.uid, folder.gid)
        reporter.note(f"{name} comes from {address}")


def _with_way_out(error: DimbaError, folder: RunFolder, store: Mapping[str, Any]) -> DimbaError:
    if store.get("proved") and "--anyway" not in error.hint:
        error.hint += f"; `dimba resume {folder.id} --anyway` continues with the checkpoints that are here"
    return error


def _written(spec: JobSpec) -> dict[str, str]:
    return dict(item.split("=", 1) for item in _logins(spec) if "=" in item)


def _give(checkpoint: Path, folder: RunFolder) -> None:
    """Gives brought files to the job's user, where root has brought them."""
    if os.geteuid() == 0:
        for path in (checkpoint, *checkpoint.rglob("*")):
            os.chown(path, folder.uid, folder.gid)


def has_unsent(record: RunRecord) -> bool:
    """Whether the run succeeded, and its store lacks some of it."""
    return record.status == "succeeded" and bool(record.store and record.store.get("pending"))


def send_rest(folder: RunFolder, record: RunRecord, loaded: LoadedSpec, reporter: Reporter) -> RunRecord:
    """Sends what the store lacks of a run that succeeded; raises RunFailed if the store does not take it in time."""
    assert record.store is not None
    address, attempt = str(record.store["address"]), folder.attempt(len(record.attempts))
    environment = {
        contract.ENV_RUN_ID: folder.id,
        contract.ENV_OUTPUT_DIR: record.output_dir,
        contract.ENV_ATTEMPT_DIR: str(attempt),
        contract.ENV_STORE: address,
        contract.ENV_STORE_WRITER: str(record.store["writer"]),
        **_written(loaded.spec),
    }
    place = _here(address, environment, AT_END * pace() + _PROBE_SECONDS)
    command = [sys.executable, "-P", "-m", MODULE, UPLOAD, "--end", SENT]
    output = host_runner().run_once(command, place, reporter.note)
    folder.write_record(record := RunRecord(**{**vars(record), **store_state(folder, record)}))
    if output.exit_code != ALL_SENT:
        raise RunFailed(f"not all of {folder.id} is in {address}", f"`dimba resume {folder.id}` tries again")
    return record
