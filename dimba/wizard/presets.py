"""The data sets of the menu."""

from dataclasses import dataclass

CUSTOM, LOCAL = "custom", "local"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A public data set: its Hub id by mode, its split, the modes it is good for, and what to take instead of it."""

    label: str
    sft: str
    grpo: str
    split: str = "train"
    good_for: tuple[str, ...]
    nearest: tuple[str, ...] = ()

    def hub_id(self, mode: str) -> str:
        """The id for a mode."""
        return self.grpo if mode == "grpo" else self.sft


PRESETS = (
    Preset(
        label="ultrachat_200k",
        sft="HuggingFaceH4/ultrachat_200k",
        grpo="HuggingFaceH4/ultrachat_200k",
        split="train_sft",
        good_for=("sft",),
    ),
    Preset(
        label="Code-Feedback",
        sft="m-a-p/CodeFeedback-Filtered-Instruction",
        grpo="m-a-p/CodeFeedback-Filtered-Preference",
        good_for=("sft", "grpo"),
        nearest=("RLHFlow/CodeUltraFeedback-standard",),
    ),
    Preset(label="OpenHermes-2.5", sft="teknium/OpenHermes-2.5", grpo="teknium/OpenHermes-2.5", good_for=("sft",)),
    Preset(
        label="feedback-collection",
        sft="argilla/feedback-collection",
        grpo="argilla/feedback-collection",
        good_for=("grpo",),
        nearest=("prometheus-eval/Feedback-Collection", "prometheus-eval/Preference-Collection"),
    ),
)


def find_preset(text: str) -> Preset | None:
    """By its number in the menu, its label, or one of its ids."""
    for number, preset in enumerate(PRESETS, 1):
        if text in (str(number), preset.label, preset.sft, preset.grpo):
            return preset
    return None
