"""The reward of preference pairs: the score of a reward model, which is evaluated before it is used."""

from collections.abc import Sequence

from dimba.common.errors import Location
from dimba.dataset.prompt_examples import PromptExample
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.models.loading import Compute
from dimba.trainers.objectives.callbacks import StopOnSignal
from dimba.trainers.objectives.grpo.evaluation import Chat, evaluate, pair_chat, split_by_question
from dimba.trainers.objectives.grpo.prompts import Prompts
from dimba.trainers.objectives.grpo.reward_model import fitting_pairs, train_or_reuse
from dimba.trainers.objectives.grpo.scoring import Scorer, load_scorer
from dimba.trainers.ranks import is_main_process
from dimba.trainers.rewards import Completions
from dimba.trainers.rewards.reasoning import split_reasoning


class PreferenceReward:
    """The score of a reward model; logs how often completions beat the chosen answers (`win_rate`)."""

    name = "preference"

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._chosen: dict[Location, float] = {}  # scores of the chosen answers

    def __call__(self, completions: Completions) -> list[float | None]:
        """One score per completion."""
        scores = self._scorer([_answered(completions, at) for at in range(len(completions))])
        chosen = self._chosen_scores(completions)
        wins = sum(score > other for score, other in zip(scores, chosen, strict=True))
        if log := completions.extras.get("log_metric"):
            log("win_rate", wins / len(scores))
        return list(scores)

    def _chosen_scores(self, completions: Completions) -> list[float]:
        examples = dict(zip(completions.places, completions.examples, strict=True))
        new = [where for where in examples if where not in self._chosen]
        scores = self._scorer([pair_chat(examples[where], chosen=True) for where in new])
        self._chosen.update(zip(new, scores, strict=True))
        return [self._chosen[where] for where in completions.places]


def _answered(completions: Completions, at: int) -> Chat:
    """A prompt with its completion; without the reasoning, unless the chosen answer of the pair has some too."""
    example, split = completions.examples[at], completions.splits[at]
    chosen = "".join(str(message["content"]) for message in example.chosen or ())
    text = completions.texts[at] if split_reasoning(chosen).reasoning else split.answer
    return (*example.messages, {"role": "assistant", "content": text})


def preference_reward(
    options: GrpoOptions, prompts: Prompts, compute: Compute, stop: StopOnSignal
) -> PreferenceReward | None:
    """A reward model for the pairs: the one given, one trained earlier, or one trained now; None if that was stopped.

    Raises:
        BadInput: there are too few pairs, or the model is right on too few of the held-out pairs.
    """
    train, held_out = split_by_question(prompts.train, options.seed)
    checkpoint = options.reward_model or train_or_reuse(options, prompts, train, compute, stop)
    if checkpoint is None:
        return None
    scorer = load_scorer(checkpoint, options, prompts.tokenizer, compute)
    evaluation = evaluate(scorer, train, _comparable(options, prompts, held_out))
    if is_main_process():
        print("\n".join(evaluation.lines()), flush=True)
    evaluation.require_accuracy(allow_weak=options.allow_weak_reward)
    return PreferenceReward(scorer)


def _comparable(options: GrpoOptions, prompts: Prompts, held_out: Sequence[PromptExample]) -> Sequence[PromptExample]:
    """The held-out pairs that are not cut, as in training; all of them if every pair would be cut."""
    return [pair for pair, *_ in fitting_pairs(options, prompts.tokenizer, held_out)] or held_out
