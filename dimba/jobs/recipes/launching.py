"""Compares a job with a recipe: before its launch, which refuses other data, or for a user who asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dimba.common.errors import BadInput
from dimba.host.hub import commit_of
from dimba.host.provenance import commit_in_cache, provenance
from dimba.jobs.context import JobContext
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.recipes.compare import Job, compare
from dimba.jobs.recipes.difference import CHANGES, MAY, Difference
from dimba.jobs.recipes.made import Made, portable_values, recipe_of
from dimba.jobs.recipes.portable import portable
from dimba.jobs.recorded import recorded_plan
from dimba.jobs.unchanged import made_with
from dimba.plan.model import LaunchPlan
from dimba.spec import LoadedSpec, parse_spec
from dimba.spec.recipe import Content, Recipe

Check = Callable[[LaunchPlan, dict[str, Any]], dict[str, Any]]
_SHOWN = 6  # differences in one line


def job_of_recipe(loaded: LoadedSpec) -> Job:
    """The job of a file that `dimba pack` wrote; raises BadInput for any other spec."""
    if loaded.recipe is None:
        hint = "`dimba pack RUN` writes a recipe; name its file"
        raise BadInput("is a spec without a recipe", hint, file=loaded.source)
    spec = parse_spec(loaded.data, source=loaded.source).spec.model_dump(mode="json")
    return Job(portable(spec, base=spec["base_checkpoint"], own_trainer=spec["trainer"]), loaded.recipe)


def job_of_plan(context: JobContext, plan: LaunchPlan, made_of: Mapping[str, Any], reporter: Reporter) -> Job:
    """The job that would run; `made_of` are its fields of a record."""
    fields = {**made_of, **recorded_plan(plan)}
    made = Made(
        spec=context.spec, facts=context.facts, plan=plan.as_json(), fields=fields, commits=dict(_commits(plan))
    )
    recipe = recipe_of(made, reporter.progress)
    reporter.ended()
    return Job(portable_values(made, context.spec.model_dump(mode="json")), recipe)


def differences_of_plan(context: JobContext, that: Job, reporter: Reporter) -> list[Difference]:
    """What would differ from another job if the context were launched."""
    # Nothing is written, so that its output folder may hold a model.
    context = replace(context, choices=replace(context.choices, run_id=context.facts.output.run_id))
    plan = context.plan()
    made_of = provenance(context.facts, plan.host_environment, reporter.progress)
    return compare(job_of_plan(context, plan, made_of | made_with(plan, context.loaded.data), reporter), that)


def check_of_recipe(context: JobContext, reporter: Reporter, *, anyway: bool) -> Check | None:
    """What compares the plan with the recipe that it comes from; None for a spec without one.

    The check raises BadInput for another base, other data or other code, unless `anyway`.
    """
    loaded, recipe = context.loaded, context.loaded.recipe
    if recipe is None:
        return None
    that = job_of_recipe(loaded)

    def check(plan: LaunchPlan, made_of: dict[str, Any]) -> dict[str, Any]:
        found = compare(job_of_plan(context, plan, made_of, reporter), that)
        others = [each for each in found if each.is_content]
        if others and not anyway:
            raise _refusal(loaded, recipe, others)
        for line in lines_of(found):
            reporter.note(f"recipe of {recipe.run}: {line}")
        listed = [vars(each) for each in found]
        return {"recipe": {"run": recipe.run, "seal": recipe.seal, "anyway": bool(others), "differences": listed}}

    return check


def lines_of(found: Sequence[Difference]) -> list[str]:
    """The differences in a line for each kind that matters."""
    labels = {CHANGES: "changes the result", MAY: "may change the result"}
    kinds = {label: [str(each) for each in found if each.kind == kind] for kind, label in labels.items()}
    lines = [f"{label}: {_in_a_line(texts)}" for label, texts in kinds.items() if texts]
    return lines or ["the same in everything that could change the result"]


def _in_a_line(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return "; ".join([*texts[:_SHOWN], *more])


def _refusal(loaded: LoadedSpec, recipe: Recipe, others: Sequence[Difference]) -> BadInput:
    lines = "\n".join(f"  {loaded.location(each.key)}: {each}" for each in others)
    give = f"give what the recipe names, as with `--set {_setting(recipe, others[0].key)}`"
    anyway = f"`dimba launch {loaded.source} --anyway` trains on these and notes it in run.json"
    return BadInput(f"{loaded.source} would train something else:\n{lines}", f"{give}; or {anyway}")


def _setting(recipe: Recipe, key: str) -> str:
    """The override that gives what the recipe has under a key."""
    contents: dict[str, Content] = {"base_checkpoint": recipe.base, **{each.key: each for each in recipe.data}}
    content, is_data = contents.get(key), key.startswith("dataset")
    if content and content.hub:
        return f"{f'{key}.revision' if is_data else 'base_revision'}={content.revision}"
    return f"{key}.path=PLACE" if is_data else f"{key}=PLACE"


def _commits(plan: LaunchPlan) -> Mapping[str, str]:
    """The commits that the job would fetch; without the Hub those in its cache."""
    base = () if plan.checkpoint.local else (plan.checkpoint,)
    found = {}
    for kind, facts in (("models", base), ("datasets", plan.data.on_hub)):
        for each in facts:
            commit = commit_of(kind, each.reference, each.revision)
            commit = commit or commit_in_cache({"writable": plan.writable}, kind, vars(each))
            if commit:
                found[f"{kind}/{each.reference}"] = commit
    return found
