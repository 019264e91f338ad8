"""Step 6: runner, trainer and names; then save and launch."""

import os
import re
from collections.abc import Sequence
from typing import Any

from dimba.common.contract import absolute
from dimba.common.runners import AUTO, RUNNERS
from dimba.host.trainer import find_trainers
from dimba.options import table
from dimba.wizard.answers import Choice, InvalidAnswer, one_of
from dimba.wizard.facts import base_is_local, chosen_on_hub, hub_model, is_local
from dimba.wizard.lines import Line
from dimba.wizard.machine import engine_facts
from dimba.wizard.preview import check_trainer, preview, preview_lines, trainer_facts
from dimba.wizard.question import Question, from_param
from dimba.wizard.screen import BACK
from dimba.wizard.spec import default_file, default_name, default_output
from dimba.wizard.state import MISSING, State

OWN = "own"


# The token.


def uses_hub(state: State) -> bool:
    """Whether the base or the data set comes from the Hub."""
    return not (base_is_local(state) and is_local(state))


def _is_gated(state: State) -> bool:
    if not base_is_local(state):
        model = hub_model(state, state.value("base_checkpoint"))
        if model.gated or model.status == "gated":
            return True
    if is_local(state):
        return False
    data = chosen_on_hub(state)
    return data.gated or data.status == "gated"


def _token_lines(_state: State) -> list[Line]:
    here = "is set here" if os.environ.get("HF_TOKEN") else "is not set here: the launch will require it"
    return [Line(f"Private and gated repositories need it. It {here}; its value is never written.", "dim")]


_YES_NO = (Choice(True, "yes", "yes"), Choice(False, "no", "no"))


def _parse_yes_no(text: str, _state: State) -> bool:
    return text.strip().lower() in ("y", "yes", "true") or bool(one_of(_YES_NO, text.strip().lower() or "no", "answer"))


# Runner and trainer.


def _runner_choices(state: State) -> Sequence[Choice]:
    engine = engine_facts(state)
    answers = f" (Docker {engine.version} answers)" if engine.reachable else f" ({engine.problem})"
    labels = {AUTO: "a container if an engine answers, else a process"}
    labels |= {name: f"{can.summary}{answers if can.uses_engine else ''}" for name, can in RUNNERS.items()}
    return [Choice(name, f"{name:<8} {label}"[:76], name) for name, label in labels.items()]


def _parse_runner(text: str, _state: State) -> str:
    return str(one_of([Choice(name, name) for name in (AUTO, *RUNNERS)], text, "runner"))


def _trainer_choices(state: State) -> Sequence[Choice]:
    from dimba.common.project import project_root

    found = find_trainers(state.value("mode"), state.folder, project_root())
    choices = [Choice(name, _trainer_label(name, facts.other_mode), name) for name, facts in found]
    return [*choices, Choice(OWN, "another script, by its path", "another")]


def _trainer_label(name: str, other_mode: bool) -> str:
    return f"{name}  (for another mode: needs a --mode flag)" if other_mode else name


def _trainer_default(state: State) -> Any:
    return _trainer_choices(state)[0].value


def _parse_trainer(text: str, state: State) -> str:
    text = text.strip()
    path = absolute(text, state.folder)
    if not text:
        raise InvalidAnswer("no trainer given", "give the path of a training script, such as scripts/train.py")
    if not path.is_file():
        problem = "is a folder, not a script" if path.is_dir() else "does not exist"
        raise InvalidAnswer(f"trainer {path} {problem}", "give the path of a training script, such as scripts/train.py")
    return text


def _from_flag(text: str, state: State) -> dict[str, Any]:
    """The answers that `--trainer TEXT` gives: a trainer of the menu, else a custom one."""
    if text in [choice.value for choice in _trainer_choices(state)]:
        return {"trainer": text}
    return {"trainer": OWN, "trainer_path": _parse_trainer(text, state)}


def _after_trainer(state: State) -> list[Line]:
    if state.value("trainer") == OWN and not state.value("trainer_path"):
        return []
    facts = trainer_facts(state)
    reason = ": its image is not built yet" if facts.flags_from == "source" else ""
    lines = [Line(f"{len(facts.flags)} flags found in its {facts.flags_from}{reason}", "dim")]
    if facts.other_mode:
        lines.append(Line("made for another mode: check that its --mode flag does what you want", "warn"))
    return lines


def _check_trainer(_value: Any, state: State) -> None:
    check_trainer(state)


# Names.


def _parse_name(text: str, _state: State) -> str:
    from dimba.spec.model import NAME

    if not text.strip() or not re.match(NAME, text.strip()):
        raise InvalidAnswer(f"name `{text}` is not valid", "letters, digits, dots, dashes and underscores, 64 at most")
    return text.strip()


def _parse_output(text: str, state: State) -> str:
    from dimba.host.output import look_at_output

    if not text.strip():
        raise InvalidAnswer("no output folder given", "for example checkpoints/mine")
    facts = look_at_output(text.strip(), state.folder)
    if facts.problem:
        raise InvalidAnswer(f"output folder: {facts.problem}", facts.hint.replace("`output_dir`", "output folder"))
    if facts.holds:
        raise InvalidAnswer(
            f"output folder {facts.path} already holds a model ({facts.holds[0]})",
            "give another, move that folder away, or remove it",
        )
    return text.strip()


def _parse_file(text: str, state: State) -> str:
    text = text.strip()
    path = absolute(text, state.folder)
    if not text or path.is_dir():
        raise InvalidAnswer(
            f"`{text}` is a folder" if text else "no file given", "give a file's name, such as jobs/mine.yaml"
        )
    nearest = next(each for each in path.parents if os.path.exists(each))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InvalidAnswer(f"{path}: {nearest} is not a writable folder", "give another path")
    return text if path.suffix in (".yaml", ".yml") else f"{text}.yaml"


def _after_file(state: State) -> list[Line]:
    path = absolute(state.value("out"), state.folder)
    return [Line(f"{path.name} exists: a copy of the old file will be kept", "dim")] if path.exists() else []


# Save and launch.


def _before_launch(state: State) -> list[Line]:
    made = preview(state, anew=True)
    problem = [Line(f"This machine cannot run it: {made.problem.message}", "warn")] if made.problem else []
    hint = [Line(f"hint: {made.problem.hint}", "dim")] if made.problem and made.problem.hint else []
    return [*preview_lines(made), *problem, *hint]


def _launch_choices(state: State) -> Sequence[Choice]:
    out = state.value("out")
    only = Choice(False, f"save {out}", "save only")
    launch = Choice(True, f"save {out} and launch it", "save and launch")
    back = Choice(BACK, "go back", "back")
    return (only, back) if preview(state).problem else (launch, only, back)


def _launch_default(state: State) -> bool:
    return state.interactive and preview(state).problem is None


QUESTIONS = (
    Question(
        key="hf_token",
        optional=True,
        step=6,
        label="Pass HF_TOKEN to the job, by its name in the spec?",
        flag="--hf-token",
        metavar="yes|no",
        help="name HF_TOKEN in the spec: the job gets its value, the file does not",
        kind="choice",
        choices=lambda _state: _YES_NO,
        default=_is_gated,
        parse=_parse_yes_no,
        to_text=lambda value: "yes" if value else "no",
        applies=uses_hub,
        before=_token_lines,
    ),
    Question(
        key="runner",
        step=6,
        label="Where it runs",
        flag="--runner",
        metavar="|".join((AUTO, *RUNNERS)),
        help="a container, a process of this machine, or a cluster's scheduler",
        kind="choice",
        choices=_runner_choices,
        default=lambda _state: AUTO,
        parse=_parse_runner,
    ),
    Question(
        key="trainer",
        step=6,
        label="Trainer",
        flag="--trainer",
        metavar="PATH",
        help="the training script: one of dimba's, or a custom one",
        kind="choice",
        choices=_trainer_choices,
        default=_trainer_default,
        from_flag=_from_flag,
        check=lambda value, state: None if value == OWN else check_trainer(state),
        after=_after_trainer,
    ),
    Question(
        key="trainer_path",
        step=6,
        label="Its path",
        kind="path",
        parse=_parse_trainer,
        check=_check_trainer,
        applies=lambda state: state.value("trainer") == OWN,
        after=_after_trainer,
        default=lambda _state: MISSING,
    ),
    from_param(
        table.OUTPUT_DIR,
        step=6,
        kind="path",
        default=default_output,
        parse=_parse_output,
        only_folders=True,
    ),
    Question(
        key="name",
        step=6,
        label="Name of the job",
        flag="--name",
        metavar="NAME",
        help="letters, digits, dots, dashes, underscores",
        default=default_name,
        parse=_parse_name,
    ),
    Question(
        key="out",
        optional=True,
        step=6,
        label="Save the spec as",
        flag="--out",
        metavar="FILE",
        help="file of the spec",
        kind="path",
        default=default_file,
        parse=_parse_file,
        after=_after_file,
    ),
    Question(
        key="launch",
        step=6,
        label="Ready",
        kind="choice",
        choices=_launch_choices,
        default=_launch_default,
        before=_before_launch,
    ),
)
