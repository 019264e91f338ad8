"""Step 6: where it runs, by which trainer, under which name; then save, and launch."""

import os
import re
from collections.abc import Sequence
from typing import Any

from dimba.common.contract import absolute
from dimba.common.runners import AUTO, RUNNERS
from dimba.host.trainer import find_trainers
from dimba.wizard.looks import base_is_local, chosen_on_hub, hub_model, is_local
from dimba.wizard.machine import engine_facts
from dimba.wizard.preview import check_trainer, preview, shown, trainer_facts
from dimba.wizard.question import Choice, Question, Said, Wrong, one_of
from dimba.wizard.screen import BACK
from dimba.wizard.spec import default_file, default_name, default_output
from dimba.wizard.state import MISSING, State

OWN = "own"


# The token.


def uses_hub(state: State) -> bool:
    """Whether the base or the data come from the Hub."""
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


def _about_token(_state: State) -> list[Said]:
    there = "is set here" if os.environ.get("HF_TOKEN") else "is not set here: a launch would ask for it"
    return [Said(f"What is private or gated on the Hub needs it. It {there}; its value is never written.", "dim")]


_YES_NO = (Choice(True, "yes", "yes"), Choice(False, "no", "no"))


def _parse_yes_no(text: str, _state: State) -> bool:
    return text.strip().lower() in ("y", "yes", "true") or bool(one_of(_YES_NO, text.strip().lower() or "no", "answer"))


# Where, and by which trainer.


def _runner_choices(state: State) -> Sequence[Choice]:
    engine = engine_facts(state)
    answers = f" (Docker {engine.version} answers)" if engine.reachable else f" ({engine.problem})"
    labels = {AUTO: "a container where an engine answers, else a process"}
    labels |= {name: f"{can.summary}{answers if can.uses_engine else ''}" for name, can in RUNNERS.items()}
    return [Choice(name, f"{name:<8} {label}"[:76], name) for name, label in labels.items()]


def _parse_runner(text: str, _state: State) -> str:
    return str(one_of([Choice(name, name) for name in (AUTO, *RUNNERS)], text, "runner"))


def _trainers(state: State) -> Sequence[Choice]:
    from dimba.host.probe import project_root

    found = find_trainers(state.value("mode"), state.folder, project_root())
    choices = [Choice(name, _trainer_label(name, facts.other_mode), name) for name, facts in found]
    return [*choices, Choice(OWN, "another script, by its path", "another")]


def _trainer_label(name: str, other_mode: bool) -> str:
    return f"{name}  (the other mode's: needs a --mode flag)" if other_mode else name


def _trainer_default(state: State) -> Any:
    return _trainers(state)[0].value


def _parse_trainer(text: str, state: State) -> str:
    text = text.strip()
    path = absolute(text, state.folder)
    if not text:
        raise Wrong("no trainer given", "give the path of a training script, such as scripts/train.py")
    if not path.is_file():
        problem = "is a folder, not a script" if path.is_dir() else "does not exist"
        raise Wrong(f"trainer {path} {problem}", "give the path of a training script, such as scripts/train.py")
    return text


def _from_flag(text: str, state: State) -> dict[str, Any]:
    """One of the menu by its name, else a script of one's own."""
    if text in [choice.value for choice in _trainers(state)]:
        return {"trainer": text}
    return {"trainer": OWN, "trainer_path": _parse_trainer(text, state)}


def _after_trainer(state: State) -> list[Said]:
    if state.value("trainer") == OWN and not state.value("trainer_path"):
        return []
    facts = trainer_facts(state)
    why = ": its image is not built yet" if facts.flags_from == "source" else ""
    lines = [Said(f"{len(facts.flags)} flags found in its {facts.flags_from}{why}", "dim")]
    if facts.other_mode:
        lines.append(Said("made for the other mode: see that its --mode flag does what you mean", "warn"))
    return lines


def _check_trainer(_value: Any, state: State) -> None:
    check_trainer(state)


# Names.


def _parse_name(text: str, _state: State) -> str:
    from dimba.spec.model import NAME

    if not text.strip() or not re.match(NAME, text.strip()):
        raise Wrong(f"name `{text}` does not go", "letters, digits, dots, dashes and underscores, 64 at most")
    return text.strip()


def _parse_output(text: str, state: State) -> str:
    from dimba.host.output import look_at_output

    if not text.strip():
        raise Wrong("no output folder given", "for example checkpoints/mine")
    facts = look_at_output(text.strip(), state.folder)
    if facts.problem:
        raise Wrong(f"output folder: {facts.problem}", facts.hint.replace("`output_dir`", "output folder"))
    if facts.holds:
        raise Wrong(
            f"output folder {facts.path} holds a model already ({facts.holds[0]})",
            "give another, move that folder away, or remove it",
        )
    return text.strip()


def _parse_file(text: str, state: State) -> str:
    text = text.strip()
    path = absolute(text, state.folder)
    if not text or path.is_dir():
        raise Wrong(f"`{text}` is a folder" if text else "no file given", "give a file's name, such as jobs/mine.yaml")
    nearest = next(each for each in path.parents if os.path.exists(each))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise Wrong(f"{path}: nothing can be written in {nearest}", "give another place")
    return text if path.suffix in (".yaml", ".yml") else f"{text}.yaml"


def _after_file(state: State) -> list[Said]:
    path = absolute(state.value("out"), state.folder)
    return [Said(f"{path.name} is there already: it will be kept beside it", "dim")] if path.exists() else []


# The end.


def _before_launch(state: State) -> list[Said]:
    made = preview(state, anew=True)
    problem = [Said(f"This machine cannot run it: {made.problem.message}", "warn")] if made.problem else []
    hint = [Said(f"hint: {made.problem.hint}", "dim")] if made.problem and made.problem.hint else []
    return [*shown(made), *problem, *hint]


def _launch_choices(state: State) -> Sequence[Choice]:
    out = state.value("out")
    only = Choice(False, f"save {out}", "save only")
    launch = Choice(True, f"save {out} and launch it", "save and launch")
    back = Choice(BACK, "go back", "back")
    return (only, back) if preview(state).problem else (launch, only, back)


def _launch_default(state: State) -> bool:
    return state.asking and preview(state).problem is None


QUESTIONS = (
    Question(
        key="hf_token",
        optional=True,
        step=6,
        ask="Name HF_TOKEN in the spec, so that the job gets it?",
        flag="--hf-token",
        metavar="yes|no",
        help="name HF_TOKEN in the spec: the job gets yours, the file does not",
        kind="choice",
        choices=lambda _state: _YES_NO,
        default=_is_gated,
        parse=_parse_yes_no,
        show=lambda value: "yes" if value else "no",
        applies=uses_hub,
        before=_about_token,
    ),
    Question(
        key="runner",
        step=6,
        ask="Where it runs",
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
        ask="Trainer",
        flag="--trainer",
        metavar="PATH",
        help="the training script, yours or ours",
        kind="choice",
        choices=_trainers,
        default=_trainer_default,
        from_flag=_from_flag,
        check=lambda value, state: None if value == OWN else check_trainer(state),
        after=_after_trainer,
    ),
    Question(
        key="trainer_path",
        step=6,
        ask="Its path",
        kind="path",
        parse=_parse_trainer,
        check=_check_trainer,
        applies=lambda state: state.value("trainer") == OWN,
        after=_after_trainer,
        default=lambda _state: MISSING,
    ),
    Question(
        key="output_dir",
        step=6,
        ask="Output folder",
        flag="--output-dir",
        metavar="FOLDER",
        help="where the model or adapter goes",
        kind="path",
        default=default_output,
        parse=_parse_output,
        only_folders=True,
    ),
    Question(
        key="name",
        step=6,
        ask="Name of the job",
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
        ask="Save the spec as",
        flag="--out",
        metavar="FILE",
        help="the spec's file",
        kind="path",
        default=default_file,
        parse=_parse_file,
        after=_after_file,
    ),
    Question(
        key="launch",
        step=6,
        ask="Ready",
        kind="choice",
        choices=_launch_choices,
        default=_launch_default,
        before=_before_launch,
    ),
)
