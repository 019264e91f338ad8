"""Step 2: the base checkpoint."""

from pathlib import Path
from typing import Any

from dimba.common.contract import is_path
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import CheckpointFacts, described
from dimba.options import table
from dimba.plan.base import base_notes
from dimba.plan.model_type import doubted_type
from dimba.wizard.answers import InvalidAnswer
from dimba.wizard.facts import base_facts, checkpoint_facts, checkpoint_probe, hub_model
from dimba.wizard.lines import Line
from dimba.wizard.question import from_param
from dimba.wizard.state import MISSING, State

_USUAL = "checkpoints/base"


def _default(state: State) -> Any:
    usual = state.folder / _USUAL
    if _is_trainable(checkpoint_facts(state, _USUAL)):
        return _USUAL
    found = sorted(usual.parent.glob("*/config.json")) if usual.parent.is_dir() else []
    complete = [each.parent for each in found if _is_trainable(checkpoint_facts(state, str(each.parent)))]
    return shorter(complete[0], state.folder) if len(complete) == 1 else MISSING


def _is_trainable(facts: CheckpointFacts) -> bool:
    return not (facts.problem or facts.refusal)


def shorter(path: Path, folder: Path) -> str:
    """The path relative to `folder` if it lies there."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _parse(text: str, state: State) -> str:
    text = text.strip()
    if not text:
        raise InvalidAnswer("no base checkpoint given", "the path of a folder in Hugging Face format, or a Hub id")
    facts = checkpoint_facts(state, text)
    if facts.problem:
        instead = {"base_checkpoint": shorter(facts.instead, state.folder)} if facts.instead else {}
        raise InvalidAnswer(f"base checkpoint {facts.reference} {facts.problem}", facts.hint, instead)
    if facts.refusal:
        raise InvalidAnswer(f"base checkpoint {facts.reference} {facts.refusal.problem}", facts.refusal.hint)
    if refused := facts.family.refuses(state.value("mode")):
        raise InvalidAnswer(f"base checkpoint {facts.reference} {refused.problem}", refused.hint)
    return text.rstrip("/") or text


def _check(value: str, state: State) -> None:
    if is_path(value):
        return
    found = hub_model(state, value)
    if found.status == "missing":
        hint = "check the id on the Hub; a private one needs HF_TOKEN in the environment; or give a folder"
        raise InvalidAnswer(f"base checkpoint `{value}`: {found.why}", hint)


def _live_hint(text: str, state: State) -> str:
    """Facts of the folder whose path is typed, from a background probe."""
    text = text.strip()
    if not text:
        return "a folder in Hugging Face format, or a Hub id such as Qwen/Qwen3-0.6B"
    name = checkpoint_probe(state, text)
    state.probes.start(name, lambda: look_at_checkpoint(text, state.folder))
    facts = state.probes.peek(name)
    if facts is None:
        return "" if state.probes.is_ready(name) else "checking …"
    if not facts.local:
        return f"no such folder: taken as the Hub id `{text}`"
    hint = facts.hint.replace(f"{state.folder}/", "")
    if facts.refusal:
        return f"{facts.refusal.problem}: {facts.refusal.hint}"
    return f"{facts.problem}: {hint}" if facts.problem else f"complete: {described(facts)}"


def _after(state: State) -> list[Line]:
    value, facts = state.value("base_checkpoint"), base_facts(state)
    assert facts is not None, "the question was answered before this"
    template = [] if facts.has_chat_template is not False else [_no_template()]
    if facts.local:
        notes = [Line(note, "warn") for note in (*base_notes(facts, max_length=0), *_type_note(facts))]
        return [Line(described(facts), "good"), *notes, *template]
    found = hub_model(state, value)
    if found.status not in ("found", "gated"):
        return [Line(f"not checked: {found.why}", "warn")]
    gated = [Line(found.why, "warn")] if found.status == "gated" else []
    return [Line(f"on the Hub: {described(facts)}", "good"), *template, *gated]


def _type_note(facts: CheckpointFacts) -> list[str]:
    doubted = doubted_type(facts)
    return [f"base: it {doubted.problem}; {doubted.hint}"] if doubted else []


def _no_template() -> Line:
    text = "Without a chat template, turns are written as `### User:` and `### Assistant:`, saved with the result."
    return Line(text, "warn")


QUESTIONS = (
    from_param(
        table.BASE,
        step=2,
        kind="path",
        default=_default,
        parse=_parse,
        check=_check,
        after=_after,
        live_hint=_live_hint,
        only_folders=True,
    ),
)
