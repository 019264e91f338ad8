"""Sends tiny models of public families through plan, data and training; writes docs/model-families.md.

Each is trained for two steps, in full and with LoRA, saved, and loaded again: the logits must be those of the trained
model. A family passes if that is right, or if it is refused with a message; a traceback, or a loss that is no
number, fails.

PYTHONPATH=. python scripts/soak/families.py [FAMILY …]   (with names, the page is not written)
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported

import torch
import transformers
import trl  # noqa: F401  # imported once, for all families
from transformers import AutoModelForCausalLM

from dimba.cli import main as command
from dimba.common.errors import DimbaError
from dimba.dataset.token_report import DataReport
from dimba.host.facts import HostFacts
from dimba.jobs import data_preview
from dimba.objectives.sft import SFT, SftOptions
from dimba.plan.job import ResolvedJob
from dimba.trainers.command import run_trainer
from dimba.trainers.models.saving import save
from dimba.trainers.objectives import example_run
from dimba.trainers.objectives.registry import training_half
from dimba.trainers.objectives.sft.train import train
from dimba.trainers.progress import Progress
from dimba.trainers.tiny import conversations
from tests.families import CAUSAL, OTHERS, VISION, make_family

PAGE = Path(__file__).parents[2] / "docs" / "model-families.md"
KINDS = {**dict.fromkeys(CAUSAL, "causal"), **dict.fromkeys(VISION, "vision"), **dict.fromkeys(OTHERS, "other")}
METHODS = ("full", "lora")
_LIMIT = 1e-4  # largest relative difference of logits
_SPEC = """version: 1
mode: sft
base_checkpoint: base
dataset: {{path: data.jsonl}}
method: {method}
training: {{max_steps: 2, batch_size: 2, grad_accumulation_steps: 1, max_length: 256, learning_rate: 1e-3}}
resources: {{gpus: none}}
runner: process
output_dir: {method}
"""
_RIGHT = "right"
_LIMITS = (
    "",
    "## Limits",
    "",
    "Two steps prove that a family loads, trains, is saved and loads again; not that a large one fits or learns well.",
    "SFT alone was run; DPO and GRPO load and save by the same code.",
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one method: `right`, `refused` or `wrong`, by which command, and the message or the reason."""

    verdict: str
    by: str = ""
    message: str = ""


def main() -> int:
    """Print a line per family; returns 1 if a family is neither right nor refused, or is not what it should be."""
    names, started, results = sys.argv[1:] or [*KINDS], time.monotonic(), {}
    with tempfile.TemporaryDirectory() as cache:  # plan asks once which packages a job would find
        os.environ["XDG_CACHE_HOME"] = cache
        for name in names:
            results[name] = outcomes(name)
            print(f"{name:>24}  {'  '.join(_cell(each) for each in results[name].values())}", flush=True)
    wrong = [name for name, found in results.items() if not is_accepted(name, found)]
    if not sys.argv[1:]:
        PAGE.write_text(page(results), encoding="utf-8")
    counts = {"families": len(results), "wrong": wrong, "seconds": round(time.monotonic() - started)}
    print(json.dumps(counts))
    return int(bool(wrong))


def is_accepted(name: str, found: dict[str, Outcome]) -> bool:
    """Whether every method was right or refused, and a model that is no language model was not trained."""
    wanted = {"refused"} if KINDS.get(name) == "other" else {_RIGHT, "refused"}
    return all(each.verdict in wanted for each in found.values())


def outcomes(name: str) -> dict[str, Outcome]:
    """The outcome of each method, found in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        if not (pid := os.fork()):
            status = 1
            try:
                status = _write_outcomes(name, Path(folder))
            finally:
                os._exit(status)
        os.waitpid(pid, 0)
        found = Path(folder, "outcomes.json")
        if not found.exists():
            return {method: Outcome("wrong", "process", "the process ended") for method in METHODS}
        return {method: Outcome(**each) for method, each in json.loads(found.read_text()).items()}


def _write_outcomes(name: str, folder: Path) -> int:
    os.chdir(folder)
    os.environ.update(XDG_STATE_HOME=str(folder / "state"))
    torch.set_num_threads(1)
    vars(data_preview)["preview"] = _preview_here
    with _silence():
        make_family(name, folder / "base")
        rows = "".join(json.dumps(row) + "\n" for row in conversations())
        (folder / "data.jsonl").write_text(rows, encoding="utf-8")
        found = {method: asdict(outcome(method)) for method in METHODS}
    (folder / "outcomes.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


def outcome(method: str) -> Outcome:
    """The outcome of training `base` in the current folder: by `plan`, by the look at the data, or after training."""
    Path("job.yaml").write_text(_SPEC.format(method=method), encoding="utf-8")
    if refusal := _refused(lambda: command(["plan", "job.yaml"]), "plan"):
        return refusal
    flags = "--base-checkpoint base --dataset data.jsonl --device cpu --max-length 256 --max-steps 2 --batch-size 2"
    flags += f" --grad-accumulation-steps 1 --learning-rate 1e-3 --output-dir {method}"
    options = SFT.parse([*flags.split(), *([f"--use-{method}"] if method != "full" else [])])
    if refusal := _refused(lambda: run_trainer(_look_at_data, options), "data"):
        return refusal
    trained: list[Any] = []
    with _captured(trained):
        refusal = _refused(lambda: run_trainer(train, options), "train")
    if refusal:
        return refusal
    try:
        return _compared(trained[0], method)
    except Exception as error:
        return Outcome("wrong", "saved", f"{type(error).__name__}: {error}"[:300])


def _preview_here(job: ResolvedJob, facts: HostFacts, _: Any, progress: Progress) -> DataReport:
    """The report that `plan` gets from a process of its own, without the seconds that starting one takes."""
    return training_half("sft").report(SFT.parse(data_preview.preview_argv(job, facts)), progress)


def _look_at_data(options: SftOptions) -> int:
    report: DataReport = training_half("sft").report(options, lambda _: None)
    if report.problem:
        raise DimbaError(report.problem, report.hint)
    return 0


def _refused(run: Callable[[], int], by: str) -> Outcome | None:
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = run()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return Outcome("wrong", by, f"{type(error).__name__} at {place}: {error}"[:300])
    if status == 0:
        return None
    cause = re.search(r"error: (.*)", output.getvalue())
    message = cause[1].replace(f"{Path.cwd()}/", "") if cause else f"status {status}"
    return Outcome("refused" if cause and status in {2, 3} else "wrong", by, message)


@contextlib.contextmanager
def _captured(trained: list[Any]) -> Iterator[None]:
    """Keeps the trainer of the run in `trained`."""

    def saved(trainer: Any, *others: Any, **named: Any) -> None:
        trained.append(trainer)
        save(trainer, *others, **named)

    vars(example_run)["save"] = saved
    try:
        yield
    finally:
        vars(example_run)["save"] = save


def _compared(trainer: Any, method: str) -> Outcome:
    """Whether training changed the model, and the saved one has its logits."""
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    if not losses or not all(loss > 0 for loss in losses):
        return Outcome("wrong", "train", f"losses {losses}")
    base, again = AutoModelForCausalLM.from_pretrained("base"), _loaded(method)
    ids = torch.arange(3, 35)[None]
    ours, saved, before = (_logits(model, ids) for model in (trainer.model, again, base))
    width = before.shape[-1]
    if (difference := float((ours - saved).norm() / ours.norm())) > _LIMIT:
        return Outcome("wrong", "saved", f"the saved model's logits differ by {difference:.1%}")
    if float((ours[..., :width] - before).abs().max()) == 0:
        return Outcome("wrong", "train", "training changed nothing")
    return Outcome(_RIGHT)


def _loaded(folder: str) -> Any:
    if not Path(folder, "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder)
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder)


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.float().eval()(input_ids=ids, use_cache=False).logits
    return logits


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _cell(found: Outcome) -> str:
    message = found.message.removeprefix("job.yaml:3: base_checkpoint: ").removeprefix("base ")
    return _RIGHT if found.verdict == _RIGHT else f"{found.verdict} by {found.by}: {message}"


def page(results: dict[str, dict[str, Outcome]]) -> str:
    """The documentation page with a row per family."""
    lines = [
        "# Model families",
        "",
        "Each family is made tiny from its own class in transformers, planned, and trained for two steps by SFT.",
        "*Right* means that training changed the model, and that the saved one, loaded again, has the logits of the",
        "trained one. The others are refused, with the message shown. `make soak` makes this page.",
        "",
        f"transformers {transformers.__version__}, {len(results)} families.",
        "",
        "| family | kind | full fine-tuning | LoRA |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        full, lora = (_cell(found[method]).replace("|", "\\|") for method in METHODS)
        lines.append(f"| {name} | {KINDS[name]} | {full} | {'the same' if lora == full != _RIGHT else lora} |")
    return "\n".join([*lines, *_LIMITS]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
