"""Step 1: what kind of training."""

from dimba.wizard.question import Choice, Question, Said, one_of
from dimba.wizard.state import State

_CHOICES = (
    Choice("sft", "sft    learn from example answers: the usual start", "sft"),
    Choice("grpo", "grpo   improve answers that a reward can score; on top of an SFT model", "grpo"),
)


def _after(state: State) -> list[Said]:
    if state.value("mode") != "grpo":
        return []
    return [Said("Preference pairs alone are usually better served by DPO; GRPO wants a reward.", "dim")]


QUESTIONS = (
    Question(
        key="mode",
        step=1,
        ask="Mode",
        flag="--mode",
        metavar="sft|grpo",
        help="sft: learn from example answers; grpo: from a reward",
        kind="choice",
        choices=lambda _state: _CHOICES,
        default=lambda _state: "sft",
        parse=lambda text, _state: one_of(_CHOICES, text, "mode"),
        after=_after,
    ),
)
