"""`docker compose run sft --dataset …`: one of dimba's trainers with its own flags, under `accelerate`."""

import os
from collections.abc import Sequence
from pathlib import Path

from dimba.commands.compose.command import Command, read_secrets
from dimba.commands.compose.gpus import usable_gpus
from dimba.commands.compose.mounts import is_mounted
from dimba.commands.compose.owner import CHECKPOINTS
from dimba.common.contract import ENV_GPU_COUNT, IMAGE_ROOT, absolute
from dimba.common.errors import BadInput
from dimba.objectives.registry import OBJECTIVES
from dimba.options.param import parse, parser_of
from dimba.options.trainer import TrainerOptions
from dimba.plan.environment import hub_login, job_environment
from dimba.plan.placement import auto_precision, job_argv


def script_command(mode: str, flags: Sequence[str]) -> Command:
    """The command of a mode's trainer with these flags; `--help` and wrong flags exit here, before training imports."""
    objective = OBJECTIVES.get(mode)
    if objective is None:
        raise BadInput(f"docker compose run train: unknown mode `{mode}`", f"use one of: {', '.join(OBJECTIVES)}")
    parser = parser_of(objective.options, objective.summary)
    parser.prog = f"docker compose run --rm {mode}"
    args = parse(objective.options, parser, flags)
    _refuse_unmounted_output(args)
    gpus = usable_gpus(requested=args.device != "cpu").gpus if args.device != "cpu" else ()
    secrets = read_secrets()
    environment = job_environment(Path(os.environ["HF_HOME"]), inside=True) | hub_login(secrets)
    return Command(
        argv=job_argv(
            f"{IMAGE_ROOT}/{objective.script}",
            gpus=len(gpus),
            precision=auto_precision(gpus),
            cores=len(os.sched_getaffinity(0)),
            tokenises=objective.tokenizes_first,
        )
        + tuple(flags),
        environment=environment | {ENV_GPU_COUNT: str(len(gpus))},
        secrets=secrets,
    )


def _refuse_unmounted_output(args: TrainerOptions) -> None:
    folder = absolute(args.output_dir or CHECKPOINTS)
    if not is_mounted(folder):
        raise BadInput(
            f"{folder} lies only in the container and would be lost with it",
            f"give a folder in {absolute(CHECKPOINTS)}, or mount yours: `docker compose run -v FOLDER:FOLDER …`",
            key="--output-dir",
        )
