"""Which flags the trainer takes, by asking it where it will run."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dimba.common.contract import IMAGE_ROOT
from dimba.host.build_context import in_context
from dimba.host.facts import HostFacts, ImageFacts, TrainerFacts
from dimba.host.findings import recall, remember
from dimba.host.help_flags import HELP_SECONDS, PARSER_VERSION, flags_in_help
from dimba.host.source_flags import flags_in_file
from dimba.host.trainer import objective_of
from dimba.options.param import flags_of
from dimba.plan.model import Mount
from dimba.runners.protocol import OneShot, Output

RunOnce = Callable[[Sequence[str], OneShot], Output]
Answer = tuple[frozenset[str], str]  # (flags, why there are none)


def trainer_facts(facts: HostFacts, image: ImageFacts | None, run_once: RunOnce, *, ask: bool) -> TrainerFacts:
    """The trainer with its flags: from `--help` in the image or on this machine, else from its source.

    A trainer from outside the project is run only where it may be (`ask`): a plan executes nothing of a stranger's.
    """
    trainer = facts.trainer
    path = trainer.path
    if path is None:
        return trainer
    own = objective_of(path, facts.project)
    if own and image is None:  # starting it takes 0.2 s, to print these
        return replace(trainer, flags=flags_of(own.options), flags_from="--help")
    if image is not None:
        trainer = replace(trainer, in_image=_place_in_image(path, facts.project))
    elif facts.engine.reachable and not facts.engine.local:
        return replace(trainer, flags=flags_in_file(path), flags_from="source")
    flags, failure = frozenset[str](), ""
    ours = in_context(path, facts.project) is not None
    if (ask or ours) and (image is None or image.id is not None):
        flags, failure = _asked(trainer, facts, image, run_once)
    if flags:
        return replace(trainer, flags=flags, flags_from="--help")
    return replace(trainer, flags=flags_in_file(path), flags_from=f"source, as {failure}" if failure else "source")


def _place_in_image(path: Path, project: Path) -> str | None:
    name = in_context(path, project)
    return f"{IMAGE_ROOT}/{name}" if name else None


# Asked once in a process, whatever came of it: the wizard looks often, and waiting in vain once is enough.
_ANSWERS: dict[tuple[str, int], Answer] = {}


def _asked(trainer: TrainerFacts, facts: HostFacts, image: ImageFacts | None, run_once: RunOnce) -> Answer:
    place = OneShot(uid=facts.output.uid, gid=facts.output.gid, timeout=HELP_SECONDS)
    key = (_digest(trainer, image.id if image else "this machine"), place.uid)
    if key not in _ANSWERS:
        here = [facts.python, str(trainer.path), "--help"]
        _ANSWERS[key] = _asked_in_image(trainer, image, run_once, place) if image else _flags(run_once(here, place))
    return _ANSWERS[key]


def _asked_in_image(trainer: TrainerFacts, image: ImageFacts, run_once: RunOnce, place: OneShot) -> Answer:
    remembered = _memory(trainer, image)
    if isinstance(known := recall(*remembered), list):
        return frozenset(map(str, known)), ""
    if not trainer.in_image:
        place = replace(place, mounts=(Mount(source=str(trainer.path), target=str(trainer.path), read_only=True),))
    inside = trainer.in_image or str(trainer.path)
    flags, failure = _flags(run_once(["python", inside, "--help"], replace(place, image=image.id or image.reference)))
    if flags:
        remember(*remembered, sorted(flags))
    return flags, failure


def _flags(output: Output) -> Answer:
    if output.exit_code is None:
        return frozenset(), f"its --help took longer than {HELP_SECONDS} s"
    if flags := flags_in_help(output.text):
        return flags, ""  # whatever the status: absl's help ends with 1
    if output.exit_code:
        last = (output.text.strip().splitlines() or ["nothing said"])[-1]
        return frozenset(), f"its --help ended with status {output.exit_code}: {last}"
    return frozenset(), "its --help names no flags"


# An image never changes under its id, nor a trainer under its hash: asking once is enough, and a launch half a
# second shorter.
def _memory(trainer: TrainerFacts, image: ImageFacts) -> tuple[str, str]:
    return f"flags-{PARSER_VERSION}", _digest(trainer, image.id)[:32]


def _digest(trainer: TrainerFacts, place: str | None) -> str:
    assert trainer.path is not None
    what = f"{place}\0{trainer.path}\0".encode() + hashlib.sha256(_content(trainer.path)).digest()
    return hashlib.sha256(what).hexdigest()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # asked all the same, it says itself what is wrong
