"""The data sets of the menu."""

from dataclasses import dataclass

CUSTOM, LOCAL = "custom", "local"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A public data set: its Hub id by mode, its split, what it is for, and what to take where it is not there."""

    label: str
    sft: str
    grpo: str
    split: str = "train"
    about: str
    nearest: tuple[str, ...] = ()

    def hub_id(self, mode: str) -> str:
        """The id for a mode."""
        return self.grpo if mode == "grpo" else self.sft


def _one(label: str, hub_id: str, about: str, split: str = "train", nearest: tuple[str, ...] = ()) -> Preset:
    return Preset(label=label, sft=hub_id, grpo=hub_id, split=split, about=about, nearest=nearest)


PRESETS = (
    _one("ultrachat_200k", "HuggingFaceH4/ultrachat_200k", "chats of several turns; SFT", split="train_sft"),
    Preset(
        label="Code-Feedback",
        sft="m-a-p/CodeFeedback-Filtered-Instruction",
        grpo="m-a-p/CodeFeedback-Filtered-Preference",
        about="code questions and answers; preferences for GRPO",
        nearest=("RLHFlow/CodeUltraFeedback-standard",),
    ),
    _one("OpenHermes-2.5", "teknium/OpenHermes-2.5", "a million chats; SFT"),
    _one(
        "feedback-collection",
        "argilla/feedback-collection",
        "preference data; GRPO",
        nearest=("prometheus-eval/Feedback-Collection", "prometheus-eval/Preference-Collection"),
    ),
)


def find_preset(text: str) -> Preset | None:
    """By its number in the menu, its label, or one of its ids."""
    for number, preset in enumerate(PRESETS, 1):
        if text in (str(number), preset.label, preset.sft, preset.grpo):
            return preset
    return None
