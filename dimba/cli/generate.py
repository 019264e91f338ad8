"""`dimba generate`: the answers to prompts on stdout, or those to a file of rows in another file."""

import argparse
import sys
from typing import TYPE_CHECKING

from dimba.cli import render
from dimba.cli.answers import AnswerView, labels_of
from dimba.cli.models import read_tools, talk_request
from dimba.common.errors import BadInput, Interrupted

if TYPE_CHECKING:
    from dimba.commands.talk.files import FileWork


def generate(args: argparse.Namespace) -> int:
    """Print the answers to prompts, or write those to a file of rows."""
    if args.file and args.prompts:
        raise BadInput("both prompts and --file are given", "give one of them")
    return _answer_file(args) if args.file else _answer_prompts(args)


def _answer_prompts(args: argparse.Namespace) -> int:
    from dimba.commands.talk.request import find_models
    from dimba.commands.talk.rows import with_system
    from dimba.commands.talk.session import model_session
    from dimba.common.inference import Prompt

    prompts = args.prompts or _piped_prompt()
    request, tools, reporter = talk_request(args), read_tools(args.tools), render.reporter()
    source, against = find_models(request, reporter)
    labels = labels_of(request.against, against.name if against else None)
    view = AnswerView(labels, as_json=args.json)
    with model_session(source, "generate", reporter, against) as session:
        for number, text in enumerate(prompts):
            messages = with_system(({"role": "user", "content": text},), request.system)
            prompt = Prompt(messages=messages, tools=tools, number=number)
            with view.question(text) as shown:
                for model in range(len(labels)):
                    shown.answer(session.ask(prompt, request.sampling, shown.part, model))
    return 0


def _piped_prompt() -> list[str]:
    if sys.stdin.isatty() or not (text := sys.stdin.read().strip()):
        raise BadInput("no prompt", "give one: `dimba generate RUN 'What is …?'`, or `--file ROWS`")
    return [text]


def _answer_file(args: argparse.Namespace) -> int:
    from dimba.commands.talk.files import FileWork
    from dimba.commands.talk.request import find_models
    from dimba.commands.talk.session import model_session

    request, reporter = talk_request(args), render.reporter()
    work = FileWork.begin(args.file, args.out, request, args.columns, batch_size=args.batch_size)
    source, against = find_models(request, reporter)
    done = work.open(source, against, reporter.progress, force=args.force)
    reporter.ended()
    if done:
        render.note(f"continuing: {done:,} of {len(work.rows):,} rows are answered")
    try:
        with model_session(source, "generate", reporter, against) as session:
            failed = work.run(session, reporter.progress)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped: {work.out}.part has the answers so far", "the same command continues") from None
    finally:
        reporter.ended()
    return _report(work, failed)


def _report(work: "FileWork", failed: int) -> int:
    if failed:
        render.note(f"{failed:,} of {len(work.rows):,} rows have no answer; `error` in their lines names the reason")
    sys.stdout.write(f"{work.out}\n")
    return BadInput.exit_status if failed == len(work.rows) else 0
