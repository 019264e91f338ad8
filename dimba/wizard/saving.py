"""The spec's file: written beside its schema, without overwriting another."""

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from dimba.common.contract import absolute
from dimba.common.errors import printable
from dimba.wizard.flow import flag_of
from dimba.wizard.preview import Preview
from dimba.wizard.questions import QUESTIONS
from dimba.wizard.state import State


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The spec's path, whether to launch it, its preview, and notes to print."""

    path: Path
    launch: bool
    preview: Preview
    notes: tuple[str, ...] = ()


def save(state: State, made: Preview) -> Outcome:
    """Write the spec and the schema that its first line names; an existing file of that name is backed up."""
    from dimba.host.output import job_user, nearest_existing
    from dimba.jobs.trust import remember_written
    from dimba.records.store import make_folder, write_atomically
    from dimba.spec import json_schema

    path, content = absolute(state.value("out"), state.folder), made.text.encode()
    uid, gid = job_user(nearest_existing(path.parent))
    make_folder(path.parent, uid, gid)
    backup_notes = _back_up(path, content)
    write_atomically(path, content, uid, gid)
    remember_written(content, state.folder)
    schema = path.parent / "job.schema.json"
    if not schema.exists():
        write_atomically(schema, (json.dumps(json_schema(), indent=2) + "\n").encode(), uid, gid)
    notes = (*_unused_flags(state), *([] if state.interactive else _warnings(state)), *backup_notes)
    return Outcome(path=path, launch=bool(state.value("launch")), preview=made, notes=notes)


def _back_up(path: Path, content: bytes) -> tuple[str, ...]:
    if not path.is_file() or path.read_bytes() == content:
        return ()
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in itertools.count())
    backup = next(name for name in names if not name.exists())
    shutil.copy2(path, backup)
    return (f"{path.name} existed: the old file is kept as {backup.name}",)


def _warnings(state: State) -> list[str]:
    """The warnings that the prompts would have shown."""
    lines = (line for question in QUESTIONS if question.applies(state) for line in question.after(state))
    return list(dict.fromkeys(printable(line.text) for line in lines if line.kind == "warn"))


def _unused_flags(state: State) -> list[str]:
    unused = [question for question in QUESTIONS if question.key in state.flag_keys and not question.applies(state)]
    return [
        f"ignored: {flag_of(each)} {each.to_text(state.answers[each.key])}; this job does not use it" for each in unused
    ]
