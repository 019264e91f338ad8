"""A family of language models as one frozen value, with a field for each difference between families.

An objective says what a run learns, a family how its model is loaded, fed and scored. The family is seen from the
base's config.json; neither the spec nor the command line names it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from dimba.common.checkpoint import Checkpoint, Kind, Refusal, kind_of
from dimba.common.inference import SHARED, Sampling
from dimba.objectives.objective import MemoryTerms
from dimba.options.param import Param


@dataclass(frozen=True, kw_only=True)
class Lifted:
    """A refusal of a base that an option of the trainer lifts."""

    refusal: Refusal
    by: Param


@dataclass(frozen=True, kw_only=True)
class RefusedOption:
    """An option that a family does not have; without `values`, any but its default."""

    param: Param
    refusal: Refusal
    values: tuple[Any, ...] = ()

    def refuses(self, value: Any) -> bool:
        """Whether this value is refused."""
        return value in self.values if self.values else value not in (None, "auto", self.param.default)


def _as_it_is(terms: MemoryTerms) -> MemoryTerms:
    return terms


def _no_refusal(_checkpoint: Checkpoint) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models. Its training half is `dimba.trainers.models.<half>`, and `<half>` of each objective.

    `half` is the name of the code that several families share; the other fields are the facts that this code needs.
    """

    label: str  # in messages, such as "a causal language model"
    half: str
    model_types: tuple[str, ...] = ()  # of config.json; none: every model type that no other family has
    objectives: tuple[str, ...] | None = None  # the modes that train it; None: all
    kind: Callable[[Mapping[str, Any]], Kind] = kind_of  # what config.json says of the model, and whether it is refused
    lifted: Callable[[Checkpoint], Lifted | None] = _no_refusal
    auto_class: str = "AutoModelForCausalLM"  # of transformers
    registers: str = ""  # the module that makes its classes known to transformers
    by_code: bool = False  # its classes come with the checkpoint
    generates: bool = True  # by `generate` of transformers
    adapter_task: str | None = "CAUSAL_LM"  # peft's `task_type`
    not_called: tuple[str, ...] = ()  # ends of layers' names whose weights its code reads without calling the layer
    not_quantised: tuple[str, ...] = ()  # ends of layers' names that stay as they are in 4 bits
    packs: bool = True  # several rows may share a sequence, if a test proves that the model keeps them apart
    divides: bool = True  # several ranks may share each row
    takes_time: bool = False  # `forward` takes `t` [rows], the share of masked tokens
    predicts_next: bool = True  # the head at a position predicts the next token; else the token at that position
    masks_pairs: bool = False  # `attention_mask` is of pairs [rows, 1, tokens, tokens]; else of tokens [rows, tokens]
    note: str = ""  # on the trained tokens of rows, for the preview of the data; none for the usual family
    options: tuple[RefusedOption, ...] = ()
    sampling: tuple[str, ...] = ("top_p", "top_k")  # fields of `Sampling` that others do not have
    rounding: float = 1e-5  # of float32 logits, as a share of the largest: what may differ once weights are merged
    loss: str = "loss"  # what rows are scored by; those of two names do not compare
    loss_note: str = ""  # what it is, if it is no loss
    tasks: Refusal | None = None  # why lm-eval does not measure it
    reward_model: Refusal | None = None  # why no reward model is trained on it
    served: Refusal | None = None  # why `dimba serve` does not serve it
    gguf: Refusal | None = None  # why llama.cpp does not run it
    memory: Callable[[MemoryTerms], MemoryTerms] = _as_it_is  # an objective's terms, as this family has them

    def refuses(self, mode: str) -> Refusal | None:
        """The refusal of an objective that does not train this family."""
        if self.objectives is None or mode in self.objectives:
            return None
        modes = " or ".join(f"`mode: {each}`" for each in self.objectives)
        return Refusal(f"is {self.label}, which `mode: {mode}` does not train", f"use {modes}, or a causal model")

    def refused_sampling(self, sampling: Sampling) -> str | None:
        """The first flag of `sampling` that the family does not have; None if it has all that are set."""
        others = [each for each in fields(Sampling) if each.name not in (*SHARED, *self.sampling)]
        found = (each.name for each in others if getattr(sampling, each.name) != each.default)
        return next((f"--{name.replace('_', '-')}" for name in found), None)

    def refused_options(self, value_of: Callable[[Param], Any]) -> Iterator[RefusedOption]:
        """The options whose values this family does not have; `value_of` gives the job's."""
        return (each for each in self.options if each.refuses(value_of(each.param)))
