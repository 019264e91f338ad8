"""`dimba demo`: a tiny checkpoint and data set made on the spot, a spec, a launch, and its result."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dimba.common.contract import ENV_BASE_IMAGE
from dimba.common.errors import RunFailed
from dimba.common.project import project_root
from dimba.common.runners import ON_HOST
from dimba.host.output import job_user, nearest_existing
from dimba.jobs.launch import launch
from dimba.jobs.lifecycle import Reporter
from dimba.plan.mounts import same_place
from dimba.records import RunRecord
from dimba.records.store import make_folder, write_atomically
from dimba.runners.protocol import OneShot, Runner
from dimba.runners.registry import find_engine, find_runner
from dimba.spec import json_schema, load_spec, parse_spec, spec_yaml

_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The result of the demo."""

    record: RunRecord
    folder: Path
    loss_before: float
    loss_after: float
    prompt: str
    answer: str


def choose_demo_runner() -> tuple[str, str]:
    """(runner, reason if not in a container): a container needs an engine and a base image."""
    runner, engine = find_engine()
    if runner is None:
        why = f"no container engine ({engine.problem})" if not engine.reachable else "the engine is on another machine"
        return ON_HOST, why
    from dimba.runners.docker.image import base_image, can_have_base

    base = base_image(project_root())
    if can_have_base(runner.api, base):
        return runner.name, ""
    return ON_HOST, f"the base image {base} is not here, and no registry has it (set {ENV_BASE_IMAGE} to another)"


def run_demo(reporter: Reporter, folder: Path) -> DemoResult:
    """Run the demo below `folder`/demo as a user would: relative paths, a spec on disk, `launch`."""
    name, why_not = choose_demo_runner()
    if why_not:
        reporter.note(f"running as a process of this machine, without a container: {why_not}")
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    place = Path("demo") / stamp
    source = spec_yaml(demo_spec(place, name), "job.schema.json")
    runner, _ = find_runner(name)
    image = runner.prepare(parse_spec(source.encode(), source="the demo's spec").spec, reporter.progress)
    reporter.ended()
    uid, gid = job_user(nearest_existing(folder / place))
    make_folder(folder / place, uid, gid)
    write_atomically(folder / place / "job.yaml", source.encode(), uid, gid)
    write_atomically(folder / place / "job.schema.json", json.dumps(json_schema(), indent=2).encode(), uid, gid)
    one_shot = OneShot(
        uid=uid,
        gid=gid,
        image=image.reference if image else "",
        mounts=(same_place(folder / place, read_only=False),),
        timeout=_SECONDS,
    )
    tool = _Tool(runner, one_shot)
    reporter.note(f"making a tiny checkpoint and data set in {place}")
    tool.run("make", str(folder / place))
    record = launch(load_spec(place / "job.yaml"), reporter, trust=True)
    shown = tool.run("show", *(str(folder / place / part) for part in ("base", "tuned", "data.jsonl")))
    return DemoResult(record=record, folder=folder / place, **shown)


def demo_spec(place: Path, runner: str) -> dict[str, Any]:
    """The demo's spec: full fine-tuning of 0.4 M parameters, seconds on any CPU."""
    return {
        "version": 1,
        "name": "demo",
        "mode": "sft",
        "base_checkpoint": f"{place}/base",
        "dataset": {"path": f"{place}/data.jsonl"},
        "method": "full",
        "training": {"batch_size": 8, "grad_accumulation_steps": 1, "epochs": 20, "learning_rate": 3.0e-3},
        "output_dir": f"{place}/tuned",
        "resources": {"gpus": "none"},
        "runner": runner,
    }


@dataclass(frozen=True)
class _Tool:
    """`dimba.trainers.tiny`, run where the trainer runs."""

    runner: Runner
    place: OneShot

    def run(self, *arguments: str) -> dict[str, Any]:
        """The JSON of its last line; raises RunFailed with its output."""
        python = "python" if self.place.image else sys.executable
        done = self.runner.run_once([python, "-m", "dimba.trainers.tiny", *arguments], self.place)
        if done.exit_code != 0:
            raise RunFailed(f"dimba.trainers.tiny {arguments[0]}: {done.text.strip()}", "run `dimba doctor`")
        value: dict[str, Any] = json.loads(done.text.strip().splitlines()[-1])
        return value


if __name__ == "__main__":
    sys.stdout.write(choose_demo_runner()[0] + "\n")
