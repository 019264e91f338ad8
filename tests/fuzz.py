"""Hostile specs, and the check that each ends in a refusal or a plan, never in a traceback."""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from rich.console import Console

from dimba.cli.plan_page import show_plan
from dimba.cli.render import print_error
from dimba.common.errors import DimbaError
from dimba.common.runners import RUNNERS, Capabilities
from dimba.host.facts import EngineFacts, Gpu, GpuFacts, ImageFacts
from dimba.jobs.context import Policy, gather
from dimba.jobs.trust import require_trust
from dimba.plan.model import LaunchPlan
from dimba.runners.protocol import FoundRunner, OneShot, OnLine, Output, ignored
from dimba.spec import Container, JobSpec, parse_spec
from tests.memory_runner import MemoryRunner

OURS = "/opt/dimba/scripts/finetuning/finetune_"
GPUS = GpuFacts(gpus=tuple(Gpu(index=n, uuid=f"GPU-{n}", name="pretend") for n in range(2)))
ENGINES = (EngineFacts(reachable=True, version="28"), EngineFacts(reachable=False, problem="nothing listens"))

COMPLETE: dict[str, Any] = {
    "version": 1,
    "name": "fuzzed",
    "mode": "sft",
    "base_checkpoint": "base",
    "dataset": {"path": "data.jsonl", "columns": {}},
    "method": "lora",
    "lora": {"r": 8, "alpha": 16},
    "training": {"batch_size": 2, "epochs": 1, "max_steps": 3, "learning_rate": 2e-4, "max_length": 64, "seed": 1},
    "output_dir": "out",
    "trainer": "scripts/finetuning/finetune_sft.py",
    "trainer_args": {"save-steps": 10},
    "resources": {"gpus": "all", "shm_size": "1g", "memory": "2g", "vram_gb": 8, "nodes": 1},
    "accelerate": {"strategy": "auto", "mixed_precision": "no"},
    "container": {"base_image": "b", "image": "i", "env": ["HF_TOKEN"], "mounts": ["/srv"], "network": "auto"},
    "slurm": {"container": "none", "image": "i", "partition": "p", "time": "1:00", "cpus": 1, "extra": ["--nice=1"]},
    "runner": "auto",
}
PLACES = [(key,) for key in COMPLETE] + [
    (key, inner) for key in COMPLETE if isinstance(COMPLETE[key], dict) for inner in COMPLETE[key]
]
FURTHER = [("dataset", "name"), ("dataset", "config"), ("dataset", "split"), ("trainer_args", "reward"), ("nothing",)]
FLAGS = ("reward-model", "num-generations", "columns", "packing", "eval-steps", "a b", "\x00", "-", "")
FURTHER += [("trainer_args", name) for name in FLAGS]
DROPPED = object()

TEXTS = [
    "$(touch x)", "`touch x`", "; touch x", "| touch x", "a\nb", "a\tb", "a\x00b", "\x00", "\x1b[31mred", "\x7f",
    "\ud800", "é" * 300, "../../../etc/x", "/etc/shadow", "/", "~", "~nobody-here/x", "~\x00", ".", "..",
    "a" * 5000, "x/" * 2000, "\u202egnp.py", "\ufeff", "base", "data.jsonl", "job.yaml", "a/b", "a/b/c", "mine.py",
    "mine.py:f", "regex:(", "9e9999g", "length:9999999999", "json_valid:/etc/x", "none", "null", "auto", "process",
    "docker", "slurm", "grpo", "full", "qlora", "host", "bridge", "1e400", "-1g", "٣g", "A=b", "A=", "=",
    "HF_TOKEN=hf_abcdefghijklmnopqrst", "PATH", "HOME", "HF_TOKEN", "/run/docker.sock:/x:rw", "::", "/:/proc",
    "a:b:c:d", "/srv:relative", "base:/x", "--", "-x", "--output-dir=/etc", "numeric", "preference", "{{ 7 * 7 }}",
    "%s%n", "[/bold]", "[red]", "0x10", "1_000", "0o7", "1:30", "regex:" + "(" * 999,
]  # fmt: skip
NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**300,
    -(10**300),
    0.0,
    -0.0,
    1e308,
    5e-324,
    float("inf"),
    float("nan"),
    True,
    None,
]
SCALARS = st.sampled_from([*TEXTS, *NUMBERS]) | st.text(max_size=20) | st.integers() | st.floats()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
# Mostly one text of the list at one key: of many changes at once, only the first would be refused.
HOSTILE = st.sampled_from(TEXTS) | st.lists(st.sampled_from(TEXTS), max_size=2) | VALUES | st.just(DROPPED)
CHANGES = st.lists(st.tuples(st.sampled_from([*PLACES, *FURTHER]), HOSTILE), max_size=3)
RAW = [
    "&a [*a]", "*a", "!!python/object:os.system x", "!x y", "? a", "{a: 1, a: 2}", "|\n  a\n  b", ">-\n  x",
    "<<: *a", "'", '"', "%", "@", "- - - 1", "2026-11-23", "0b1", ".inf", "!!binary aGk=", "!!set {a}",
    "0x" + "f" * 9000, "9" * 5000, "!!omap [a: 1]", "[[[[", "\t- x",
]  # fmt: skip
LINES = st.tuples(
    st.sampled_from([key for (key, *_rest) in PLACES]), st.sampled_from([*RAW, *TEXTS]) | st.text(max_size=30)
)
NOISE = st.text(alphabet=st.sampled_from(list("version: 1\nmode[]{}&*!|>'\"#%@`-?,~\t\r \x00\u2028é")), max_size=200)


@dataclass
class NeverStarts(MemoryRunner):
    """An engine with the project's image that runs nothing but the `--help` of dimba's own trainers."""

    name: str = "docker"
    capabilities: Capabilities = RUNNERS["docker"]

    def look(self, spec: JobSpec, container: Container | None = None) -> ImageFacts:
        key = None if spec.container.image else "k"
        return ImageFacts(reference="r", key=key, base="b", base_digest="d", id="sha256:1")

    def start(self, plan: LaunchPlan, *, run_id: str, attempt: int, log: Path, secrets: Mapping[str, str]) -> str:
        raise AssertionError("a job was started")

    def run_once(self, argv: Sequence[str], place: OneShot, on_line: OnLine = ignored) -> Output:
        _python, script, word = argv
        assert script.startswith(OURS) and word == "--help" and not place.network and not place.mounts, argv
        return Output(
            0, "  --base-checkpoint X\n  --dataset X\n  --use-lora\n  --use-qlora\n  --output-dir X\n  --save-steps N\n"
        )


@st.composite
def specs(draw: Any) -> bytes:
    """The bytes of a file: a complete spec with changed values, the same followed by raw YAML, or noise."""
    kind = draw(st.sampled_from(["changed", "changed", "changed", "raw", "noise"]))
    if kind == "noise":
        return draw(st.binary(max_size=200) | NOISE.map(lambda text: text.encode(errors="surrogatepass")))
    value: dict[str, Any] = {key: dict(part) if isinstance(part, dict) else part for key, part in COMPLETE.items()}
    if draw(st.integers(0, 3)):
        value["container"] = {}
    for place, new in draw(CHANGES):
        change(value, place, new)
    text = "".join(
        f"{json.dumps(key)}: {json.dumps(part, ensure_ascii=draw(st.booleans()))}\n" for key, part in value.items()
    )
    if kind == "raw":
        text += "".join(f"{key}: {raw}\n" for key, raw in draw(st.lists(LINES, min_size=1, max_size=3)))
    return text.encode(errors="surrogatepass")


def single_changes() -> Iterator[bytes]:
    """Complete specs with one hostile value, alone and in a list, at each key."""
    for place in [*PLACES, *FURTHER]:
        for new in [*TEXTS, *NUMBERS]:
            for written in (new, [new]):
                value: dict[str, Any] = {**COMPLETE, "container": {}}
                change(value, place, written)
                yield json.dumps(value).encode()
                if place[0] == "trainer_args":
                    yield json.dumps({**value, "mode": "grpo", "trainer": None}).encode()


def change(value: dict[str, Any], place: tuple[str, ...], new: Any) -> None:
    *parents, last = place
    for parent in parents:
        inner = value.get(parent)
        value[parent] = value = dict(inner) if isinstance(inner, dict) else {}
    if new is DROPPED:
        value.pop(last, None)
    else:
        value[last] = new


def outcome(data: bytes, engine: EngineFacts, folder: Path) -> str:
    """The outcome of a spec: `refused`, `distrusted`, `no plan` or `planned`; raises any other error."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            loaded = parse_spec(data, source="job.yaml")
        except DimbaError as error:
            print_error(error)
            return "refused"
        trusted = True
        try:
            require_trust(loaded, folder, trust=False, ask=None)
        except DimbaError as error:
            print_error(error)
            trusted = False
        try:
            plan = gather(loaded, FoundRunner(NeverStarts(), engine), Policy(gpu=GPUS)).plan()
        except DimbaError as error:
            print_error(error)
            return "no plan" if trusted else "distrusted"
    show_plan(plan, Console(file=io.StringIO()))
    json.dumps(plan.as_json(), ensure_ascii=False).encode()
    assert all("\x00" not in token for token in plan.argv)
    return "planned" if trusted else "distrusted"
