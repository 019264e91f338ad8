"""The context of a job: gathered as the policy allows, planned once, refined into other contexts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dimba.host.facts import EngineFacts, Gpu, GpuFacts
from dimba.jobs import context as module
from dimba.jobs.context import JobContext, Policy, gather
from dimba.plan.build import make_plan
from dimba.runners.protocol import FoundRunner, OneShot, OnLine, Output, ignored
from dimba.spec import LoadedSpec, load_spec
from tests.memory_runner import MemoryRunner

FLAGS = "--base-checkpoint --dataset --use-lora --output-dir --max-steps --resume-from-checkpoint"
HELP = "\n".join(f"  {flag} X" for flag in FLAGS.split())
TWO_GPUS = GpuFacts(gpus=tuple(Gpu(index=number, uuid=f"GPU-{number}") for number in range(2)))


@dataclass
class Asked(MemoryRunner):
    """Remembers what was executed."""

    executed: list[Sequence[str]] = field(default_factory=list)

    def run_once(self, argv: Sequence[str], place: OneShot, on_line: OnLine = ignored) -> Output:
        self.executed.append(argv)
        return Output(0, HELP)


@pytest.fixture
def loaded(job: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedSpec:
    monkeypatch.chdir(job)
    (job / "theirs.py").write_text("raise SystemExit('executed')\n", encoding="utf-8")
    text = (job / "job.yaml").read_text(encoding="utf-8").replace("gpus: none", "gpus: 1")
    (job / "job.yaml").write_text(f"{text}trainer: theirs.py\n", encoding="utf-8")
    return load_spec(job / "job.yaml")


def gathered(loaded: LoadedSpec, runner: Asked, **policy: Any) -> JobContext:
    found = FoundRunner(runner, EngineFacts(reachable=False))
    return gather(loaded, found, Policy(gpu=TWO_GPUS, **policy))


@pytest.mark.parametrize(
    ("policy", "runs"),
    [({"asks": "none"}, 0), ({"asks": "own"}, 0), ({"asks": "any"}, 0), ({"asks": "any", "trusts_spec": True}, 1)],
)
def test_a_strangers_trainer_is_executed_only_where_the_policy_and_the_place_allow_it(
    loaded: LoadedSpec, policy: dict[str, Any], runs: int
):
    runner = Asked()
    gathered(loaded, runner, **policy)
    assert len(runner.executed) == runs


def test_a_context_makes_its_plan_once(loaded: LoadedSpec, monkeypatch: pytest.MonkeyPatch):
    made = []
    monkeypatch.setattr(module, "make_plan", lambda *args: made.append(args) or make_plan(*args))
    context = gathered(loaded, Asked(), asks="any", trusts_spec=True)
    assert context.plan() is context.plan() and len(made) == 1
    assert context.with_gpus(("GPU-0",)).plan() is context.plan(), "the lease gave what was planned"
    assert len(made) == 1


def test_other_gpus_and_a_checkpoint_make_other_plans_and_leave_the_context_as_it_is(loaded: LoadedSpec):
    context = gathered(loaded, Asked(), asks="any", trusts_spec=True)
    leased = context.with_gpus(("GPU-1",))
    resumed = leased.resumed_from(Path("/out/checkpoint-2"))
    assert (context.plan().gpu_ids, leased.plan().gpu_ids) == (("GPU-0",), ("GPU-1",))
    assert resumed.plan().argv[-2:] == ("--resume-from-checkpoint", "/out/checkpoint-2")
    assert resumed.plan().gpu_ids == ("GPU-0",), "a lease ends with its attempt"
    assert "--resume-from-checkpoint" not in context.plan().argv


def test_a_spec_stays_as_it_was_written(loaded: LoadedSpec):
    before = loaded.spec.model_dump()
    context = gathered(loaded, Asked(), asks="any", trusts_spec=True)
    context.resumed_from(Path("/out/checkpoint-2")).plan()
    assert context.spec is loaded.spec and loaded.spec.model_dump() == before
