"""`dimba chat`: a conversation on a terminal, or one question a line from a pipe."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from dimba.cli import render
from dimba.cli.answers import AnswerView, labels_of
from dimba.cli.models import read_tools, talk_request
from dimba.common.contract import absolute
from dimba.common.errors import BadInput

if TYPE_CHECKING:
    from dimba.commands.talk.chat import Chat
    from dimba.commands.talk.session import ModelSession

_HELP = """/clear         forget the conversation
/retry         ask the last question again, with another seed
/system TEXT   set the system prompt, and begin again
/save FILE     write the conversation as a row of data
/quit          end, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(args: argparse.Namespace) -> None:
    """Talk to a model until the input ends."""
    from dimba.commands.talk.chat import Chat
    from dimba.commands.talk.request import find_models
    from dimba.commands.talk.session import model_session

    request, tools, reporter = talk_request(args), read_tools(args.tools), render.reporter()
    source, against = find_models(request, reporter)
    labels = labels_of(request.against, against.name if against else None)
    with model_session(source, "chat", reporter, against) as session:
        talk = Chat(session, request.sampling, models=len(labels), system=request.system, tools=tools)
        view = AnswerView(labels, as_json=args.json)
        if sys.stdin.isatty():
            render.note(f"{source.name}{f' beside {against.name}' if against else ''}; /help lists the commands")
        for line in _lines():
            if not _obey(line, talk, view):
                break


def _lines() -> Iterator[str]:
    """The lines of the user or of a pipe, without blank ones."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401  # gives input() editing and the earlier lines

    while (line := _typed()) is not None:
        if line:
            yield line


def _typed() -> str | None:
    """The next line; empty after a Ctrl-C, which may have been meant for an answer that had just ended."""
    try:
        return input("\nyou › ").strip()
    except EOFError:
        sys.stderr.write("\n")
        return None
    except KeyboardInterrupt:
        render.note("\n/quit or Ctrl-D ends")
        return ""


def _obey(line: str, talk: "Chat", view: AnswerView) -> bool:
    """Answers a question or obeys a command; False to end."""
    command, _, rest = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/clear":
        talk.clear()
    elif command == "/system":
        talk.begin_with(rest.strip() or None)
    elif command == "/save":
        _save(talk, rest.strip())
    elif command == "/retry":
        _retry(talk, view)
    elif line.startswith("/"):
        render.note(_HELP if command == "/help" else f"no command `{command}`\n{_HELP}")
    else:
        _answer(line, talk, view)
    return True


def _retry(talk: "Chat", view: AnswerView) -> None:
    if not talk.asked:
        render.note("nothing was asked yet")
        return
    talk.forget_last()
    talk.sampling = replace(talk.sampling, seed=talk.sampling.seed + 1)
    _answer(talk.asked, talk, view)


def _save(talk: "Chat", name: str) -> None:
    path = absolute(name or "chat.jsonl")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps({"messages": each}, ensure_ascii=False) + "\n" for each in talk.turns)
    except OSError as error:
        render.note(f"{path}: {error.strerror}; `/save FILE` names another file")
    else:
        render.note(f"saved: {path}")


def _answer(text: str, talk: "Chat", view: AnswerView) -> None:
    try:
        with _stopping(talk.session), view.question(text) as shown:
            for model in range(talk.models):
                shown.answer(talk.ask(text, shown.part, model))
    except BadInput as error:  # a conversation that became too long, or that the template refuses
        if not sys.stdin.isatty():
            raise
        render.print_error(error)


@contextmanager
def _stopping(session: "ModelSession") -> Iterator[None]:
    """A Ctrl-C ends the answer; a second one ends the command."""
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            raise KeyboardInterrupt
        stopped = True
        session.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
