"""The arguments of commands that load or make a model."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.contract import absolute
from dimba.common.inference import ENGINES, TRANSFORMERS, Sampling
from dimba.common.runners import AUTO, RUNNERS
from dimba.options.kinds import Integer, Number

if TYPE_CHECKING:
    from dimba.commands.export.request import ExportRequest
    from dimba.commands.talk.request import TalkRequest
    from dimba.jobs.model_source import ModelRequest

_MODEL = "a run's id, the start of one, a name, or a folder with a model, an adapter or a GGUF"


def add_model(command: argparse.ArgumentParser) -> None:
    """The model, and where it is loaded."""
    command.add_argument("model", metavar="RUN|FOLDER", help=_MODEL)
    add_place(command)


def add_place(command: argparse.ArgumentParser) -> None:
    """Where models are loaded."""
    command.add_argument(
        "--runner", choices=(AUTO, *RUNNERS), metavar="NAME", help="where the model is loaded: a runner"
    )
    command.add_argument(
        "--gpus", metavar="GPUS", help="none, all, a number, or a list such as [0,1] (default: as few as hold it)"
    )
    command.add_argument("--base", metavar="BASE", help="the base of an adapter, in place of the recorded one")
    command.add_argument("--allow-cpu", action="store_true", help="use the CPU if the GPUs do not work")
    command.add_argument("--trust-remote-code", action="store_true", help="run code that the checkpoint brings along")
    command.add_argument("--json", action="store_true", help="print JSON, and ask nothing")


def add_chat(command: argparse.ArgumentParser) -> None:
    """The models that answer, and how."""
    add_model(command)
    command.add_argument("--against", metavar="MODEL", help="also ask `base`, another run or a folder, side by side")
    command.add_argument("--system", metavar="TEXT", help="the system prompt; an empty one removes that of the rows")
    _add_drawing(command)
    share = "draw from the likeliest tokens of this share"
    command.add_argument("--top-p", type=Number(above=0, most=1), default=1.0, metavar="P", help=share)
    most = "draw from the K likeliest tokens (0: all)"
    command.add_argument("--top-k", type=Integer(least=0), default=0, metavar="K", help=most)
    command.add_argument("--tools", metavar="FILE", help="a JSON file with a list of tools that the model may call")


def add_generate(command: argparse.ArgumentParser) -> None:
    """As of a chat, with the prompts."""
    add_chat(command)
    command.add_argument("prompts", nargs="*", metavar="PROMPT", help="a question (default: from stdin)")
    command.add_argument("--file", metavar="ROWS", help="answer the prompts of a file, in batches")
    command.add_argument("--out", metavar="FILE", help="where to write their answers (default: ROWS.answers.jsonl)")
    command.add_argument("--force", action="store_true", help="replace that file, and begin again")
    _add_rows(command)


def _add_drawing(command: argparse.ArgumentParser) -> None:
    """How the tokens of answers are chosen."""
    temperature = "0 takes the likeliest token (default)"
    command.add_argument("--temperature", type=Number(least=0, most=100), default=0.0, metavar="T", help=temperature)
    seed = "draws the same again (default: 0)"
    command.add_argument("--seed", type=Integer(least=0), default=0, metavar="N", help=seed)
    most = "the longest answer, in tokens (default: 512)"
    command.add_argument("--max-new-tokens", type=Integer(), default=512, metavar="N", help=most)
    length = "of a masked-diffusion model: tokens that are filled in together, block after block (default: 32)"
    command.add_argument("--block-length", type=Integer(), metavar="N", help=length)
    steps = "of a masked-diffusion model: steps per block (default: one per token; fewer are quicker, and less exact)"
    command.add_argument("--diffusion-steps", type=Integer(), metavar="N", help=steps)
    guidance = "of a masked-diffusion model: how far answers move towards the prompt (default: 0)"
    command.add_argument("--guidance", type=Number(least=0, most=100), metavar="W", help=guidance)


def _add_rows(command: argparse.ArgumentParser) -> None:
    """How a file of rows is read."""
    columns = "our column and that of the file, such as prompt=question"
    command.add_argument("--columns", nargs="+", default=[], metavar="OURS=YOURS", help=columns)
    command.add_argument("--batch-size", type=Integer(), default=16, metavar="N", help="rows at once (default: 16)")


def add_serve(command: argparse.ArgumentParser) -> None:
    """Where a model answers, and whom."""
    add_model(command)
    command.add_argument(
        "--port",
        type=Integer(least=0, most=65535),
        default=8000,
        metavar="N",
        help="the port on 127.0.0.1; 0 takes a free one (default: 8000)",
    )
    engine = "transformers (default: as in training, one request at a time), or vllm (many at once, on a GPU)"
    command.add_argument("--engine", choices=ENGINES, default=TRANSFORMERS, metavar="NAME", help=engine)
    key = "the environment variable with the key that callers must send (default: none is asked for)"
    command.add_argument("--api-key-env", metavar="NAME", help=key)


def add_export(command: argparse.ArgumentParser) -> None:
    """What is written, where, and to whom it goes."""
    add_model(command)
    command.add_argument("--merged", action="store_true", help="the adapter merged into its base (default)")
    command.add_argument("--gguf", metavar="TYPE", help="a GGUF file for llama.cpp: f16, q8_0, q4_k_m and others")
    types = ("auto", "float32", "bfloat16", "float16")
    about = "the type of merged weights: float32, bfloat16, float16, or auto, that of the base (default)"
    command.add_argument("--dtype", choices=types, default="auto", metavar="TYPE", help=about)
    where = "the folder to write (default: `merged` or `gguf` in the model's own)"
    command.add_argument("--out", metavar="DIR", help=where)
    check = "compare an export that exists with the trained model (default: the model's own), and write nothing"
    command.add_argument("--check", nargs="?", const="", metavar="FOLDER", help=check)
    command.add_argument("--hub", metavar="OWNER/NAME", help="upload it there as well, with the token in HF_TOKEN")
    command.add_argument("--public", action="store_true", help="make a new repository public (default: private)")


def add_convert(command: argparse.ArgumentParser) -> None:
    """What is converted, and where it goes."""
    command.add_argument("file", metavar="FILE", help="a .pt file with model_state_dict, config and mask_id")
    command.add_argument("out", metavar="OUT", help="the folder to write, new or empty")
    tokenizer = "also write the tokenizer in this folder, with the mask token"
    command.add_argument("--tokenizer", metavar="FOLDER", help=tokenizer)
    runners = (AUTO, *RUNNERS)
    command.add_argument("--runner", choices=runners, metavar="NAME", help="where the file is read: a runner")
    command.add_argument("--json", action="store_true", help="print JSON, and ask nothing")


def export_request(args: argparse.Namespace) -> "ExportRequest":
    """The command line as a value."""
    from dimba.commands.export.request import ExportRequest

    names = ("model", "merged", "gguf", "dtype", "out", "check", "hub", "public")
    return ExportRequest(**{name: getattr(args, name) for name in names}, where=model_request(args))


def add_eval(command: argparse.ArgumentParser) -> None:
    """Which models are compared, and by which rows."""
    command.add_argument("models", nargs="+", metavar="RUN|FOLDER", help=f"{_MODEL}; several are ranked")
    add_place(command)
    command.add_argument(
        "--against",
        metavar="MODEL",
        default="base",
        help="another run or a folder to compare it with (default: base)",
    )
    command.add_argument("--file", metavar="ROWS", help="a file of rows (default: those that the run held out)")
    _add_rows(command)
    command.add_argument("--limit", type=Integer(), metavar="N", help="the first N rows, or documents of a task")
    keep = "also measure rows that stand in the training data (default: they are counted and left out)"
    command.add_argument("--keep-overlap", action="store_true", help=keep)
    guard = "also score general rows, to see what training has lost"
    command.add_argument("--guard", action="store_true", help=guard)
    _add_tasks(command)
    _add_answers(command)


def _add_tasks(command: argparse.ArgumentParser) -> None:
    """Which tasks of lm-eval are run, and how."""
    tasks = "tasks of lm-eval by name, or task files, or folders of them, with commas between"
    command.add_argument("--tasks", action="append", default=[], metavar="NAME[,NAME]", help=tasks)
    shots = "examples in front of each document of a task (default: as many as the task names)"
    command.add_argument("--fewshot", type=Integer(least=0), metavar="N", help=shots)
    plain = "prompts of tasks without the chat template (default: as the run was trained)"
    command.add_argument("--plain-tasks", action="store_true", help=plain)
    trust = "run Python code that tasks bring along, or that the models write for them"
    command.add_argument("--trust-task-code", action="store_true", help=trust)


def _add_answers(command: argparse.ArgumentParser) -> None:
    """What the models' answers are measured by, and how they are drawn."""
    reward = "let the models answer, and score the answers with a reward of GRPO: numeric, exact_match, …"
    command.add_argument("--reward", action="append", default=[], metavar="NAME", help=reward)
    command.add_argument("--reward-model", metavar="FOLDER", help="score the answers with this reward model")
    command.add_argument("--judge", metavar="URL", help="an OpenAI-compatible address that compares the answers")
    command.add_argument("--judge-model", metavar="NAME", help="the model that judges there")
    key = "the environment variable with its key, which is never stored"
    command.add_argument("--judge-key-env", metavar="NAME", help=key)
    _add_drawing(command)


ARGUMENTS = {
    "chat": add_chat,
    "generate": add_generate,
    "eval": add_eval,
    "serve": add_serve,
    "export": add_export,
    "convert": add_convert,
}


def model_request(args: argparse.Namespace) -> "ModelRequest":
    """The command line as a value."""
    from dimba.jobs.model_source import ModelRequest

    return ModelRequest(
        runner=args.runner,
        gpus=args.gpus,
        base=args.base,
        trust_remote_code=args.trust_remote_code,
        allow_cpu=args.allow_cpu,
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    """The command line's part that chooses tokens."""
    given = vars(args)
    return Sampling(**{each.name: given[each.name] for each in fields(Sampling) if each.name in given})


def talk_request(args: argparse.Namespace) -> "TalkRequest":
    """The command line as a value."""
    from dimba.commands.talk.request import TalkRequest

    return TalkRequest(
        model=args.model,
        against=args.against,
        system=args.system,
        sampling=sampling_of(args),
        where=model_request(args),
    )


def read_tools(path: str | None) -> tuple[Any, ...] | None:
    """The tools in a JSON file; raises BadInput."""
    import json

    from dimba.common.errors import BadInput, UnusableRow, first_line
    from dimba.dataset.samples import tools_of

    if path is None:
        return None
    file = absolute(path)
    try:
        return tools_of({"tools": json.loads(Path(file).read_text(encoding="utf-8"))})
    except (OSError, ValueError) as error:
        raise BadInput(first_line(error), "give a JSON file with a list of tools", file=file) from None
    except UnusableRow as error:
        raise BadInput(error.finding, "give a JSON file with a list of tools", file=file) from None
