"""The models of a command that talks: the one that is asked, and one to compare it with."""

from dataclasses import dataclass, field, replace

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
    if request.against is None:
        return source, None
    if request.against == BASE:
        return source, source.of_base()
    return source, find_model(request.against, replace(request.where, base=None), reporter)
