"""The family of a base or of a loaded model, and the training half of `dimba.objectives.family`.

A family's module here has the functions of `ModelHalf`; what it needs for an objective lies beside that objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import transformers

from dimba.common.contract import absolute, is_path, read_json_object
from dimba.common.errors import BadInput
from dimba.objectives.families import family_of
from dimba.objectives.family import Family
from dimba.objectives.objective import Objective
from dimba.options.param import params

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dimba.common.trained import TrainedModel
    from dimba.options.trainer import TrainerOptions

Ids = list[int]


class ModelHalf(Protocol):
    """What differs between the models of two families, once they are loaded."""

    def prepare(
        self, model: PreTrainedModel, options: TrainerOptions, tokenizer: PreTrainedTokenizerBase
    ) -> Sequence[str]:
        """Make a base fit for training, and return a line for each thing to know.

        Raises:
            BadInput: the model is not what its configuration claims, as numbers show.
        """

    def name_tokens(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained: TrainedModel) -> None:
        """Name in the configuration of a trained model what training found named elsewhere; raises BadInput."""

    def logits(self, model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
        """Logits [rows, tokens, vocabulary] of rows [rows, tokens] without padding, to compare two models by."""

    def likeliest(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Ids],
        tokenizer: PreTrainedTokenizerBase,
        *,
        new_tokens: int,
        seconds: float | None,
    ) -> tuple[list[Ids], torch.Tensor]:
        """(the likeliest `new_tokens` tokens behind each prompt, the first logits of them [prompts, vocabulary])."""

    def retraced(self, model: PreTrainedModel, prompt: Ids, tokens: Ids) -> Ids:
        """The likeliest tokens in place of the first of `tokens`, each with those that `likeliest` gave before it."""


def family_at(checkpoint: str) -> Family:
    """The family of the base in a folder, or of a Hub id; that of causal models where there is no configuration."""
    if is_path(checkpoint):
        return family_of(read_json_object(absolute(checkpoint) / "config.json"))
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(checkpoint)
    except (OSError, ValueError):  # loading reports it
        config = {}
    return family_of(config)


def family_of_model(model: PreTrainedModel) -> Family:
    """The family of a loaded model, of an adapter's base too."""
    return family_of({"model_type": getattr(model.config, "model_type", None)})


def half_of(model: PreTrainedModel) -> ModelHalf:
    """The code for the family of a loaded model."""
    return cast(ModelHalf, import_module(f"{__package__}.{family_of_model(model).half}"))


def auto_class(family: Family) -> Any:
    """The class of transformers that loads the family's models."""
    register(family)
    return getattr(transformers, family.auto_class)


@cache
def _imported(module: str) -> None:
    import_module(module)


def register(family: Family) -> None:
    """Makes classes that come with dimba known to transformers."""
    if family.registers:
        _imported(family.registers)


def checked_family(options: TrainerOptions, objective: Objective[Any]) -> Family:
    """The family of the base; raises BadInput for an objective or an option that it does not have."""
    family, mode = family_at(options.base_checkpoint), objective.name
    if found := family.refuses(mode):
        raise BadInput(f"{options.base_checkpoint} {found.problem}", found.hint, key="--base-checkpoint")
    fields = {param.flag: name for name, param in params(type(options)).items()}
    refused = family.refused_options(lambda param: getattr(options, fields.get(param.flag, ""), None))
    for each in refused:
        raise BadInput(each.refusal.problem, each.refusal.hint, key=each.param.flag)
    return family
