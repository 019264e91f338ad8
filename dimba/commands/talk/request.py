"""The models of a command that talks: the one that is asked, and one to compare it with."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dimba.common.errors import BadInput
from dimba.common.inference import Sampling
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_source import ModelRequest, ModelSource, find_model

BASE = "base"  # of `--against`: the model before training


@dataclass(frozen=True, kw_only=True)
class TalkRequest:
    """The command line's part of `chat` and `generate`."""

    model: str
    against: str | None = None
    system: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    where: ModelRequest = field(default_factory=ModelRequest)


def find_models(request: TalkRequest, reporter: Reporter) -> tuple[ModelSource, ModelSource | None]:
    """The model, and the one that it is compared with; raises BadInput."""
    source = find_model(request.model, request.where, reporter)
    against = None
    if request.against is not None:
        another = replace(request.where, base=None)
        against = source.of_base() if request.against == BASE else find_model(request.against, another, reporter)
    require_sampling([source, *([against] if against else [])], request.sampling)
    return source, against


def require_sampling(models: Sequence[ModelSource], sampling: Sampling) -> None:
    """Raises BadInput for a flag that one of the models does not sample with."""
    for each in models:
        if flag := each.family.refused_sampling(sampling):
            raise BadInput(
                f"{each.name} is {each.family.label}, which does not sample with it", "leave it out", key=flag
            )
