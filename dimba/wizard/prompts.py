"""The screen of a real terminal, on InquirerPy."""

import itertools
import shutil
import signal
import sys
import termios
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from InquirerPy.base.control import Choice as MenuChoice
from InquirerPy.prompts.checkbox import CheckboxPrompt
from InquirerPy.prompts.filepath import FilePathCompleter
from InquirerPy.prompts.input import InputPrompt
from InquirerPy.prompts.list import ListPrompt
from InquirerPy.utils import get_style
from prompt_toolkit import print_formatted_text
from prompt_toolkit.completion import Completer, ThreadedCompleter
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.styles import Style

from dimba.common.errors import DimbaError
from dimba.wizard.lines import Line
from dimba.wizard.question import Question
from dimba.wizard.screen import BACK, NOTICE_SECONDS, preferred
from dimba.wizard.state import Report, State

T = TypeVar("T")
_TYPING_SECONDS = 1.0
_ESCAPE_SECONDS = 0.1  # an arrow key begins with the same byte as Esc
_LIST_HELP = "↑↓ choose   Enter take   Esc back   Ctrl-C leave, a draft is kept"
_MANY_HELP = "Space mark   Enter take   Esc back   Ctrl-C leave, a draft is kept"
_PATH_HELP = "Tab complete   Enter take   Esc back   Ctrl-C leave, a draft is kept"
_TEXT_HELP = "Enter take   Esc back   Ctrl-C leave, a draft is kept"
# Enter typed ahead of a prompt arrives as a line feed; no question can be skipped.
_KEYS = {"answer": [{"key": "enter"}, {"key": "c-j"}], "skip": []}
_COLOURS = {
    "questionmark": "ansicyan",
    "answermark": "ansigreen",
    "answer": "ansicyan",
    "question": "bold",
    "instruction": "ansibrightblack",
    "long_instruction": "ansibrightblack",
    "pointer": "ansicyan bold",
    "checkbox": "ansigreen",
    "input": "",
    "marker": "ansigreen",
    "validator": "ansired",
}
_LINE_STYLE = Style.from_dict(
    {"title": "bold", "dim": "ansibrightblack", "good": "ansigreen", "warn": "ansiyellow", "error": "ansired bold"}
)


class Prompts:
    """Menus, and text prompts with completion and a live hint."""

    def __init__(self) -> None:
        utf8 = (sys.stdout.encoding or "").lower().startswith("utf")
        self._pointer = "❯" if utf8 else ">"
        self._style = get_style(_COLOURS, style_override=True)

    def show_title(self, step: int, steps: int, text: str) -> None:
        """Print the step's number and name, after an empty line."""
        self.show([Line(""), Line(f"Step {step} of {steps}  {text}", "title")])

    def show(self, lines: Sequence[Line]) -> None:
        """Print each line in its kind's colour."""
        for line in lines:
            for part in _wrap(line):
                print_formatted_text(FormattedText([(f"class:{line.kind}", part)]), style=_LINE_STYLE)

    def show_problem(self, error: DimbaError) -> None:
        """Print the cause, then the hint."""
        cause = _wrap_text(f"error: {error.message}", "")
        hint = _wrap_text(f"hint: {error.hint}", "  ") if error.hint else []
        rest = "".join(f"\n{line}" for line in [cause[0].removeprefix("error:"), *cause[1:], *hint]).removeprefix("\n")
        print_formatted_text(FormattedText([("class:error", "error:"), ("", rest)]), style=_LINE_STYLE)

    def ask(self, question: Question, state: State, initial: str | None) -> Any:
        """The value of a choice, or the typed text."""
        kinds = {"choice": self._choice, "many": self._many}
        prompt, application = kinds.get(question.kind, self._text)(question, state, initial)
        _bind_keys(prompt, application)
        return prompt.execute()

    def _choice(self, question: Question, state: State, _initial: str | None) -> Any:
        choices = list(question.choices(state))
        shorts = {choice.label: choice.short or choice.label for choice in choices}
        prompt = ListPrompt(
            message=question.label,
            choices=[MenuChoice(choice.value, name=choice.label) for choice in choices],
            default=preferred(question, state),
            transformer=lambda label: shorts.get(label, label),
            long_instruction=_LIST_HELP,
            keybindings=_KEYS,
            pointer=self._pointer,
            style=self._style,
            show_cursor=False,
        )
        return prompt, prompt.application

    def _many(self, question: Question, state: State, initial: str | None) -> Any:
        choices = list(question.choices(state))
        marked = _marked_values(initial, [choice.value for choice in choices])
        prompt = CheckboxPrompt(
            message=question.label,
            choices=[MenuChoice(each.value, name=each.label, enabled=each.value in marked) for each in choices],
            transformer=lambda labels: "all" if len(labels) == len(choices) else f"{len(labels)} of {len(choices)}",
            filter=lambda values: "all" if len(values) == len(choices) else values,
            long_instruction=_MANY_HELP,
            enabled_symbol="[x]",
            disabled_symbol="[ ]",
            keybindings=_KEYS,
            pointer=self._pointer,
            style=self._style,
            show_cursor=False,
        )
        return prompt, prompt.application

    def _text(self, question: Question, state: State, initial: str | None) -> Any:
        prompt = _Text(
            live=_live(question, state),
            message=f"{question.label}:",
            default=initial or "",
            completer=_paths(question) if question.kind == "path" else None,
            keys=_PATH_HELP if question.kind == "path" else _TEXT_HELP,
            keybindings=_KEYS,
            style=self._style,
        )
        return prompt, prompt.application

    def wait_for(self, label: str, job: Callable[[Report], T]) -> T:
        """The result of `job`, under a spinner if it takes long."""
        done, progress = threading.Event(), [""]
        spinner = threading.Thread(target=_spin, args=(label, progress, done), daemon=True)
        spinner.start()
        try:
            return job(lambda text: progress.__setitem__(0, text))
        finally:
            done.set()
            spinner.join()


@contextmanager
def quiet_terminal() -> Iterator[None]:
    """Keep keys typed between two prompts for the next one, without an echo among the printed lines."""
    before = termios.tcgetattr(sys.stdin)
    quiet = termios.tcgetattr(sys.stdin)
    quiet[0] &= ~termios.ICRNL
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    handlers = {number: signal.signal(number, _exit_as_signalled) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _exit_as_signalled(number: int, _frame: object) -> None:
    """Exit with the signal's status, through the code that restores the terminal."""
    raise SystemExit(128 + number)


def _wrap(line: Line) -> list[str]:
    """Wrap prose; a plain line stays on one line, so that it can be copied."""
    if line.kind in ("title", "plain"):
        return [line.text if line.kind == "title" else f"  {line.text}"]
    return _wrap_text(line.text, "  ")


def _wrap_text(text: str, indent: str) -> list[str]:
    """Wrap between words, never at the dash of a path or a flag."""
    wrapper = textwrap.TextWrapper(
        width=shutil.get_terminal_size().columns - 1,
        initial_indent=indent,
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [part for line in text.splitlines() for part in wrapper.wrap(line)] or [""]


def _spin(label: str, progress: list[str], done: threading.Event) -> None:
    if done.wait(NOTICE_SECONDS):
        return
    width = 79
    for mark in itertools.cycle("|/-\\"):
        text = f"{mark} {label} … {progress[0]}"[:width]
        sys.stdout.write(f"\r{text:<{width}}")
        sys.stdout.flush()
        if done.wait(0.1):
            break
    sys.stdout.write("\r" + " " * width + "\r")
    sys.stdout.flush()


def _marked_values(initial: str | None, values: list[Any]) -> list[Any]:
    if initial in (None, "all"):
        return values
    if initial.isdecimal():
        return values[: int(initial)]
    return [value for value in values if str(value) in initial.split(",")]


def _bind_keys(prompt: Any, application: Any) -> None:
    """Bind Esc to go back, and in menus the left arrow too."""

    def back(event: Any) -> None:
        prompt.status = {"answered": True, "skipped": True, "result": None}
        event.app.erase_when_done = True
        event.app.exit(result=BACK)

    kept = prompt._filter
    prompt._filter = lambda value: kept(value) if kept and value is not BACK else value
    application.ttimeoutlen = _ESCAPE_SECONDS
    prompt._kb.add("escape", eager=True)(back)
    prompt._kb.add("c-z")(lambda _event: None)  # else it is typed into the text
    if not isinstance(prompt, InputPrompt):
        prompt._kb.add("left")(back)
        prompt._kb.add("<any>")(_JumpToLabel(prompt.content_control))
        # A menu binds its keys when it is drawn, and loses the keys typed before that.
        prompt._rendered = True
        prompt._keybinding_factory()


class _JumpToLabel:
    """Moves to the line whose beginning is typed, such as its number."""

    def __init__(self, menu: Any) -> None:
        self._menu, self._typed, self._last = menu, "", 0.0

    def __call__(self, event: Any) -> None:
        if time.monotonic() - self._last > _TYPING_SECONDS:
            self._typed = ""
        self._typed, self._last = self._typed + event.data.lower(), time.monotonic()
        labels = [choice["name"].lower() for choice in self._menu.choices]
        found = next((n for n, label in enumerate(labels) if label.startswith(self._typed)), None)
        if found is not None:
            self._menu.selected_choice_index = found


class _Text(InputPrompt):  # type: ignore[misc]  # InquirerPy is not typed
    """A text prompt with a live hint below, and Tab to complete."""

    def __init__(self, *, live: Callable[[str], str] | None, keys: str, **options: Any) -> None:
        super().__init__(**options)
        self._live, self._keys = live, keys
        self._session.bottom_toolbar = self._below
        self._session.complete_while_typing = False
        self._session.refresh_interval = 0.2 if live else 0  # a background probe's result appears while one types

    @property
    def application(self) -> Any:
        """The prompt_toolkit application."""
        return self._session.app

    def _below(self) -> FormattedText:
        hint = self._live(self._session.default_buffer.text) if self._live else ""
        hint = "\n".join(_wrap_text(hint, "")) if hint else ""
        return FormattedText([("class:long_instruction", f"{hint}\n{self._keys}" if hint else self._keys)])


def _live(question: Question, state: State) -> Callable[[str], str] | None:
    live_hint = question.live_hint
    if live_hint is None:
        return None

    def below(text: str) -> str:
        try:
            return live_hint(text, state)
        except (DimbaError, OSError) as error:  # such as a folder without read permission
            return str(error)

    return below


def _paths(question: Question) -> Completer:
    return ThreadedCompleter(FilePathCompleter(only_directories=question.only_folders))
