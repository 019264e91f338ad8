"""The public data sets of the menu."""

from collections.abc import Mapping
from dataclasses import dataclass

CUSTOM, LOCAL = "custom", "local"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A public data set: its Hub id by the kind of data that an objective wants, its split, and substitutes."""

    label: str
    ids: Mapping[str, str]  # "answers" or "preferences": Hub id
    suits: tuple[str, ...]  # the kinds of data that it holds
    split: str = "train"
    nearest: tuple[str, ...] = ()  # substitutes if the Hub no longer has it

    def hub_id(self, wants: str) -> str:
        """The Hub id for a kind of data."""
        return self.ids[wants]


def _same(hub_id: str) -> Mapping[str, str]:
    return {"answers": hub_id, "preferences": hub_id}


PRESETS = (
    Preset(
        label="ultrachat_200k",
        ids=_same("HuggingFaceH4/ultrachat_200k"),
        split="train_sft",
        suits=("answers",),
    ),
    Preset(
        label="Code-Feedback",
        ids={
            "answers": "m-a-p/CodeFeedback-Filtered-Instruction",
            "preferences": "m-a-p/CodeFeedback-Filtered-Preference",
        },
        suits=("answers", "preferences"),
        nearest=("RLHFlow/CodeUltraFeedback-standard",),
    ),
    Preset(label="OpenHermes-2.5", ids=_same("teknium/OpenHermes-2.5"), suits=("answers",)),
    Preset(
        label="feedback-collection",
        ids=_same("argilla/feedback-collection"),
        suits=("preferences",),
        nearest=("prometheus-eval/Feedback-Collection", "prometheus-eval/Preference-Collection"),
    ),
)


def find_preset(text: str) -> Preset | None:
    """The preset with this number in the menu, this label, or this Hub id."""
    for number, preset in enumerate(PRESETS, 1):
        if text in (str(number), preset.label, *preset.ids.values()):
            return preset
    return None
