"""The recipe of a run, or of a job that would run: the same value of both, so that they can be compared."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dimba.host.build_context import in_context
from dimba.host.facts import HostFacts
from dimba.host.packages import pinned_versions
from dimba.jobs.recipes.contents import Progress, base_content, code_files, source_contents
from dimba.jobs.recipes.portable import cached_revision, portable, public_name
from dimba.spec import JobSpec
from dimba.spec.recipe import VERSION, Hardware, Recipe, Software, Steps


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a job is made of: the spec, the machine's facts, its plan as JSON, and the fields of a run's record."""

    spec: JobSpec
    facts: HostFacts
    plan: Mapping[str, Any]
    fields: Mapping[str, Any]
    commits: Mapping[str, str] = field(default_factory=dict)  # of models and data on the Hub, as `models/owner/name`

    @property
    def own_trainer(self) -> str | None:
        """The path in the project of a trainer that is part of dimba."""
        path = self.facts.trainer.path
        return in_context(path, self.facts.project) if path else None


def recipe_of(made: Made, progress: Progress, **more: Any) -> Recipe:
    """The recipe; `more` has further fields of it, which only a run that has ended has."""
    facts, fields, steps = made.facts, made.fields, made.plan.get("steps") or {}
    base = made.commits.get(f"models/{facts.checkpoint.reference}")
    data = {name.removeprefix("datasets/"): commit for name, commit in made.commits.items()}
    found = {
        "version": VERSION,
        "run": str(fields.get("id") or made.spec.name),
        "base": base_content(facts.checkpoint, fields.get("base_hash"), base),
        "data": list(source_contents(made.spec, facts.data, data, progress)),
        "code": list(code_files(made.spec, fields.get("trainer_hash"), fields.get("files") or {})),
        "software": _software(fields, facts),
        "hardware": _hardware(made.plan, steps),
        "steps": Steps(effective_batch=steps.get("effective_batch"), total=steps.get("total")),
    }
    return Recipe(**{**found, **more})


def portable_values(made: Made, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the job's spec without this machine."""
    checkpoint = made.facts.checkpoint
    name = public_name(checkpoint.reference, local=checkpoint.local)
    is_file = checkpoint.local and not cached_revision(checkpoint.reference)
    return portable(values, base=f"./{name}" if is_file else name, own_trainer=made.own_trainer)


def _software(fields: Mapping[str, Any], facts: HostFacts) -> Software:
    diff, lock = fields.get("git_diff"), fields.get("lock_hash")
    return Software(
        dimba=fields.get("dimba_version"),
        revision=fields.get("git_revision") or fields.get("code_hash"),
        changes=hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        image=fields.get("image"),
        image_digest=fields.get("image_digest"),
        lock=lock,
        packages=dict(fields.get("packages") or pinned_versions(facts.project, lock)),
    )


def _hardware(plan: Mapping[str, Any], steps: Mapping[str, Any]) -> Hardware:
    gpus: Sequence[Mapping[str, Any]] = plan.get("gpus") or ()
    return Hardware(
        runner=plan.get("runner"),
        gpus=[str(each.get("name") or "unnamed") for each in gpus],
        driver=next((each.get("driver") for each in gpus), None),
        processes=steps.get("processes"),
        strategy=plan.get("strategy"),
        precision=plan.get("precision"),
    )
