"""Records held against what is really running: a launcher that was killed cannot close its run."""

from dataclasses import replace

from dimba.errors import BadInput, EngineFailed
from dimba.launch import find_runner
from dimba.lifecycle import STOP_GRACE, judge
from dimba.runs import ACTIVE, RunFolder, RunRecord

_SETTLING = ("queued", "building")


def stop_run(folder: RunFolder, *, now: bool) -> RunRecord:
    """Tells a run to save and end, kills it `now` or after a grace; raises BadInput where it does not run."""
    record = reconciled(folder)
    job = record.attempts[-1].job if record.attempts else None
    if record.status not in ACTIVE or job is None:
        raise BadInput(f"{record.id} does not run: {record.status}", "`dimba ps` lists what does")
    runner, _engine = find_runner(record.runner)
    if runner.name != record.runner:
        raise EngineFailed(
            f"{record.id} runs in a container, and no engine answers", "`dimba doctor` checks the engine"
        )
    folder.write_record(replace(record, status="stopping"))
    runner.stop(job, 0 if now else STOP_GRACE)
    return reconciled(folder)


def reconciled(folder: RunFolder) -> RunRecord:
    """The run's record, closed where its job has ended without anybody writing it down."""
    record = folder.record()
    if record.status not in ACTIVE or record.status in _SETTLING or not record.attempts:
        return record
    job = record.attempts[-1].job
    runner, _engine = find_runner(record.runner)
    if job is None or runner.name != record.runner:
        return record  # nobody to ask: the engine is away
    try:
        if runner.is_running(job):
            return record
        log = folder.log(record.attempts[-1].number)
        for _line in runner.follow(job, log):
            pass  # what came while nobody followed goes to the log on disk
        ending = runner.wait(job)
    except EngineFailed:
        return record
    status, reason, _ = judge(ending, folder, stopping=record.status == "stopping")
    closed = record.closed(status, reason, ending.exit_code if ending else None)
    if folder.record() == record:  # whoever follows it may have closed it in between
        folder.write_record(closed)
    return closed
