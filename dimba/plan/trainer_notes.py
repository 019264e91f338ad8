"""Notes on the trainer of a job: whose it is, and the packages that it lacks here. Pure."""

from dimba.host.facts import HostFacts
from dimba.host.trainer import SCRIPTS, objective_of
from dimba.options import table
from dimba.plan.flags import flag_for
from dimba.spec import JobSpec


def trainer_notes(spec: JobSpec, facts: HostFacts, *, inside: bool) -> list[str | None]:
    """The notes, None for one that does not apply; `inside`: the job runs in an image, which has the packages."""
    return [_about_trainer(spec, facts), _about_copy(facts), None if inside else _about_packages(facts)]


def _about_trainer(spec: JobSpec, facts: HostFacts) -> str | None:
    flag = flag_for(table.MODE, facts.trainer.flags)
    if not facts.trainer.other_mode or flag is None:
        return None
    return f"trainer: {facts.trainer.path} is the trainer of another mode; check what its `{flag} {spec.mode}` does"


def _about_copy(facts: HostFacts) -> str | None:
    path, copy = facts.trainer.path, facts.trainer.copy
    if copy:
        return f"trainer: {copy} has the content of dimba's own {path}, which runs in its place"
    if path and objective_of(path, facts.project) is None and any(path.match(script) for script in SCRIPTS):
        return f"trainer: {path} is custom: it has the name of dimba's own, and another content"
    return None


def _about_packages(facts: HostFacts) -> str | None:
    missing = f"not installed here, where the job would run: {', '.join(facts.missing_packages)}"
    return f"{missing}; `launch` needs `{facts.install_command}`" if facts.missing_packages else None
