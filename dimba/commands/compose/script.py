"""`docker compose run sft --dataset …`: one of our trainers with the flags that it takes, under `accelerate`."""

import os
from collections.abc import Sequence
from pathlib import Path

from dimba.commands.compose.cards import cards
from dimba.commands.compose.owner import CHECKPOINTS
from dimba.commands.compose.places import is_shown
from dimba.commands.compose.start import Start, secrets_given
from dimba.common.contract import ENV_GPU_COUNT, IMAGE_ROOT, absolute
from dimba.common.errors import BadInput
from dimba.objectives.registry import OBJECTIVES
from dimba.options.param import parse, parser_of
from dimba.options.trainer import TrainerOptions
from dimba.plan.environment import hub_login, job_environment
from dimba.plan.placement import auto_precision, job_argv


def script(mode: str, flags: Sequence[str]) -> Start:
    """What starts for these flags; `--help` and mistakes end here, before anything is imported that trains."""
    objective = OBJECTIVES.get(mode)
    if objective is None:
        raise BadInput(f"docker compose run train: no mode `{mode}`", f"one of: {', '.join(OBJECTIVES)}")
    parser = parser_of(objective.options, objective.summary)
    parser.prog = f"docker compose run --rm {mode}"
    args = parse(objective.options, parser, flags)
    _refuse_what_would_be_lost(args)
    gpus = cards(wanted=args.device != "cpu").gpus if args.device != "cpu" else ()
    secrets = secrets_given()
    environment = job_environment(Path(os.environ["HF_HOME"]), inside=True) | hub_login(secrets)
    return Start(
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


def _refuse_what_would_be_lost(args: TrainerOptions) -> None:
    folder = absolute(args.output_dir or CHECKPOINTS)
    if not is_shown(folder):
        raise BadInput(
            f"--output-dir: {folder} is in the container alone, and would be gone with it",
            f"give a folder in {absolute(CHECKPOINTS)}, or mount yours: docker compose run -v FOLDER:FOLDER …",
        )
