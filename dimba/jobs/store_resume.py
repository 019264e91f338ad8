"""A run that another machine began, brought from its store as a run of this one."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path

from dimba.common.contract import DIFF_FILE, PLAN_FILE, RUN_FILE, SPEC_FILE, absolute, read_json_object
from dimba.common.errors import BadInput
from dimba.common.output_store import FIND, MODEL, SENT, address_problem, join
from dimba.host.output import look_at_output
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.recorded import launched_here, new_store
from dimba.jobs.store import on_host
from dimba.records import RunFolder, RunRecord, create_run
from dimba.records.store import make_folder
from dimba.spec import LoadedSpec, parse_spec

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ATTEMPT = re.compile(r"attempts/[1-9]\d{0,3}/[a-z]+\.[a-z]+")


def adopt(address: str, runs: Path, reporter: Reporter) -> RunFolder:
    """The run at `<store>/<run id>` with its record, metrics and logs in `runs`; one that is here already stays.

    Raises:
        BadInput: the address has no run, or the run succeeded.
    """
    if problem := address_problem(address):
        raise BadInput(problem, "give the run's folder in the store: `<output_store>/<run id>`")
    address = address.rstrip("/")
    store, _, run_id = address.rpartition("/")
    if (runs / run_id / RUN_FILE).is_file():
        status = (runs / run_id).stat()
        return RunFolder(runs / run_id, status.st_uid, status.st_gid)
    with tempfile.TemporaryDirectory(prefix="dimba-store-") as name:
        found = on_host([FIND, address, name], address, reporter)
        if not _ID.fullmatch(run_id):
            raise BadInput(f"`{run_id}` is no run's id", "give the run's folder in the store")
        if found.get("how") == SENT:
            raise BadInput(
                f"run {run_id} succeeded: its model is in {join(address, MODEL)}", "launch a spec to train again"
            )
        return _recorded(Path(name), store, run_id, runs, reporter)


def _recorded(brought: Path, store: str, run_id: str, runs: Path, reporter: Reporter) -> RunFolder:
    data = (brought / SPEC_FILE).read_bytes()
    try:
        record = RunRecord.from_json(read_json_object(brought / RUN_FILE))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{join(store, run_id)} has no readable record ({error})", "it cannot be resumed") from None
    loaded = parse_spec(data, source=f"{join(store, run_id)}/run/{SPEC_FILE}", overrides=record.overrides)
    if (loaded.spec.output_store or "").rstrip("/") != store:
        reporter.note(f"its spec names {loaded.spec.output_store}: it continues with {store}, where it was found")
        record = replace(record, overrides=(*record.overrides, f"output_store={store}"))
        loaded = parse_spec(data, source=loaded.source, overrides=record.overrides)
    output = look_at_output(loaded.spec.output_dir, Path.cwd())
    folder = create_run(runs, run_id, output.uid, output.gid)
    _copy(brought, folder, len(record.attempts))
    folder.write_bytes(SPEC_FILE, data)
    folder.write_record(_of_this_machine(record, loaded, run_id))
    return folder


def _of_this_machine(record: RunRecord, loaded: LoadedSpec, run_id: str) -> RunRecord:
    moved = replace(
        record,
        id=run_id,
        folder=str(Path.cwd()),
        output_dir=str(absolute(loaded.spec.output_dir)),
        store=new_store(loaded.spec),
        container_id=None,
        group=None,
        trusted=(),
    )
    reason = record.exit_reason or "machine_gone"
    ended = moved.closed(record.status if record.status in ("failed", "stopped") else "lost", reason, record.exit_code)
    return replace(
        ended, **{**launched_here(), "exit_reason": ended.exit_reason, "ended": ended.ended, "launcher": None}
    )


def _copy(brought: Path, folder: RunFolder, attempts: int) -> None:
    for number in range(1, attempts + 1):
        make_folder(folder.attempt(number), folder.uid, folder.gid)
    for path in brought.rglob("*"):
        name = str(path.relative_to(brought))
        if path.is_file() and (name in (PLAN_FILE, DIFF_FILE) or _ATTEMPT.fullmatch(name)):
            make_folder((folder.path / name).parent, folder.uid, folder.gid)
            folder.write_bytes(name, path.read_bytes())
