"""Several plans as one array job of Slurm's: a task for each. Pure."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from dimba.common import contract
from dimba.common.errors import BadInput
from dimba.plan.model import LaunchPlan
from dimba.plan.slurm import JOB_SCRIPT, literal, options_of, settings_of


def array_script(plans: Sequence[LaunchPlan], array_id: str, at_once: int) -> str:
    """One job of a task for each plan, at most `at_once` at a time (0: no limit).

    The attempts' folders differ in the number of the run, counted from 1, alone; each holds its own script.

    Raises:
        BadInput: the plans ask for different resources, which the tasks of an array share.
    """
    first = plans[0]
    options, *others = [_task_options(plan, array_id) for plan in plans]
    for number, other in enumerate(others, 2):
        if differing := set(other) ^ set(options):
            cause = f"run {number} asks for other resources ({', '.join(sorted(differing))}) than run 1"
            raise BadInput(f"{cause}, and the tasks of an array share them", "launch a sweep for each of these values")
    before, after = _around_number(first)
    limit = f"%{at_once}" if at_once else ""
    parts = [
        f"#!/bin/bash\n# Sweep {array_id}: a task for each of its runs; written by dimba.",
        "\n".join(f"#SBATCH --{option}" for option in (*options, f"array=1-{len(plans)}{limit}")),
        f'exec bash {shlex.quote(before)}"$SLURM_ARRAY_TASK_ID"{after}/{JOB_SCRIPT}',
    ]
    return "\n\n".join(parts) + "\n"


def _task_options(plan: LaunchPlan, array_id: str) -> list[str]:
    """The options of an array, as they would be for this task; its log has Slurm's pattern for the task's number."""
    before, after = _around_number(plan)
    log = f"{literal(Path(before))}%a{literal(Path(after, contract.LOG_FILE))}"
    return list(options_of(plan, settings_of(plan), str(Path(before).parent), log, array_id))


def _around_number(plan: LaunchPlan) -> tuple[str, str]:
    """The attempt's folder before and after the number of the run."""
    attempt = Path(plan.environment[contract.ENV_ATTEMPT_DIR])
    run = attempt.parents[1]
    return f"{run.parent / run.name.rpartition('-')[0]}-", f"/attempts/{attempt.name}"
