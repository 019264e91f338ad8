"""The meaning of `--activation-checkpointing`, for the plan and for the trainers."""

from dataclasses import dataclass

AUTO, ON, OFF, OFFLOAD = "auto", "on", "off", "offload"
WORDS = (AUTO, ON, OFF, OFFLOAD)


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """The layers whose activations the backward pass recomputes, from the first one on; the others keep theirs."""

    layers: int | None = None  # None: all
    offload: bool = False  # the inputs of these layers wait in pinned host memory

    def count(self, layers: int) -> int:
        """How many of a model's `layers` it is."""
        return layers if self.layers is None else min(self.layers, layers)

    def words(self, layers: int | None) -> str:
        """In words, for a model of so many layers; None: not known."""
        count = self.layers if layers is None else self.count(layers)
        if count == 0:
            return "off"
        every = "all layers" if layers is None else f"all {layers} layers"
        if count in (layers, None):
            return f"{every}, their inputs in host memory" if self.offload else every
        return f"{count} layers" if layers is None else f"{count} of {layers} layers"

    @property
    def value(self) -> int | str:
        """The value of the flag."""
        if self.offload:
            return OFFLOAD
        return ON if self.layers is None else self.layers or OFF


ALL, NONE = Checkpointing(), Checkpointing(layers=0)
OFFLOADED = Checkpointing(offload=True)
_BY_WORD = {ON: ALL, OFF: NONE, OFFLOAD: OFFLOADED}


def checkpointing_of(value: object) -> Checkpointing | None:
    """The choice that the flag's `value` makes; None for `auto`, and for what is no value of it."""
    number = str(value)
    return Checkpointing(layers=int(number)) if number.isdecimal() else _BY_WORD.get(number)
