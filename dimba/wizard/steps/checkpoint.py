"""Step 2: what is trained on."""

from pathlib import Path
from typing import Any

from dimba.common.contract import names_a_path
from dimba.common.units import millions
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import CheckpointFacts
from dimba.wizard.looks import base_facts, checkpoint_facts, checkpoint_name, hub_model
from dimba.wizard.question import Question, Said, Wrong
from dimba.wizard.state import MISSING, State

_USUAL = "checkpoints/base"


def _default(state: State) -> Any:
    usual = state.folder / _USUAL
    if not checkpoint_facts(state, _USUAL).problem:
        return _USUAL
    there = sorted(usual.parent.glob("*/config.json")) if usual.parent.is_dir() else []
    whole = [each.parent for each in there if not checkpoint_facts(state, str(each.parent)).problem]
    return shorter(whole[0], state.folder) if len(whole) == 1 else MISSING


def shorter(path: Path, folder: Path) -> str:
    """The path as one would type it in `folder`."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _parse(text: str, state: State) -> str:
    text = text.strip()
    if not text:
        raise Wrong("no base checkpoint given", "the path of a folder in Hugging Face format, or a Hub id")
    facts = checkpoint_facts(state, text)
    if facts.problem:
        instead = {"base_checkpoint": shorter(facts.instead, state.folder)} if facts.instead else {}
        raise Wrong(f"base checkpoint {facts.reference} {facts.problem}", facts.hint, instead)
    return text.rstrip("/") or text


def _check(value: str, state: State) -> None:
    if names_a_path(value):
        return
    found = hub_model(state, value)
    if found.status == "missing":
        hint = "check the id on the Hub; a private one needs HF_TOKEN in the environment; or give a folder"
        raise Wrong(f"base checkpoint `{value}`: {found.why}", hint)


def _live(text: str, state: State) -> str:
    """What is known of a folder while its path is typed; looked at beside the typing."""
    text = text.strip()
    if not text:
        return "a folder in Hugging Face format, or a Hub id such as Qwen/Qwen3-0.6B"
    name = checkpoint_name(state, text)
    state.probes.start(name, lambda: look_at_checkpoint(text, state.folder))
    facts = state.probes.peek(name)
    if facts is None:
        return "" if state.probes.is_ready(name) else "looking …"
    if not facts.local:
        return f"not a folder here: taken as the Hub's `{text}`"
    hint = facts.hint.replace(f"{state.folder}/", "")
    return f"{facts.problem}: {hint}" if facts.problem else f"whole: {described(facts)}"


def described(facts: CheckpointFacts) -> str:
    """One line of facts."""
    parts = [
        facts.architecture or "unknown architecture",
        f"{millions(facts.parameters)} parameters" if facts.parameters else "",
        facts.dtype or "",
        f"context {facts.context_length:,}" if facts.context_length else "",
        {True: "chat template", False: "no chat template", None: ""}[facts.has_chat_template],
    ]
    return ", ".join(part for part in parts if part)


def _after(state: State) -> list[Said]:
    value, facts = state.value("base_checkpoint"), base_facts(state)
    assert facts is not None, "it has just been answered"
    template = [] if facts.has_chat_template is not False else [_no_template()]
    if facts.local:
        return [Said(described(facts), "good"), *template]
    found = hub_model(state, value)
    if found.status not in ("found", "gated"):
        return [Said(f"not checked: {found.why}", "warn")]
    gated = [Said(found.why, "warn")] if found.status == "gated" else []
    return [Said(f"on the Hub: {described(facts)}", "good"), *template, *gated]


def _no_template() -> Said:
    text = "Without a chat template, turns are written as `### User:` and `### Assistant:`, saved with the result."
    return Said(text, "warn")


QUESTIONS = (
    Question(
        key="base_checkpoint",
        step=2,
        ask="Base checkpoint",
        flag="--base-checkpoint",
        metavar="PATH|ID",
        help="a folder in Hugging Face format, or a Hub id",
        kind="path",
        default=_default,
        parse=_parse,
        check=_check,
        after=_after,
        live=_live,
        only_folders=True,
    ),
)
