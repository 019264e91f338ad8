"""From pairs to a loss, for masked-diffusion models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.utils import disable_dropout_in_model

from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.models.masked_diffusion.answers import Answers, Rows
from dimba.trainers.models.masked_diffusion.estimates import PairDraws, estimated
from dimba.trainers.models.masked_diffusion.noise import Level, Noise
from dimba.trainers.models.masked_diffusion.reference import prepare_reference
from dimba.trainers.models.masked_diffusion.scoring import bounds
from dimba.trainers.objectives.dpo.losses import Changes, pair_losses
from dimba.trainers.objectives.dpo.setup import PLAIN
from dimba.trainers.objectives.masked_steps import Batch, MaskedSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = ("input_ids", "attention_mask", "labels")
_MEASURED = ("loss", *PLAIN.values())


class MaskedPairTrainer(MaskedSteps):
    """A trainer with padded batches of the chosen sides, then the rejected ones.

    Log-likelihoods are estimated from `draws` masks per side, the same ones for the model and its reference: where they
    are equal, every change is 0, whatever the masks.
    """

    def __init__(self, *args: Any, reference: PreTrainedModel | None, draws: int, **options: Any) -> None:
        """`reference`: a frozen model; None where the model's adapter can be switched off."""
        super().__init__(*args, **options)
        self._draws, self._reference = draws, reference
        disable_dropout_in_model(self.model)  # it would tell the model from its reference
        if reference is not None:
            self._reference = self._prepared(reference)
        self._metrics = {name: self._no_sums() for name in ("train", "eval")}

    def _no_sums(self) -> torch.Tensor:
        """The sums of what is measured of pairs, and the number of pairs."""
        return torch.zeros(len(_MEASURED) + 1, dtype=torch.float64, device=self.args.device)

    def _prepared(self, reference: PreTrainedModel) -> Any:
        reference.config.mask_token_id = self.base.config.mask_token_id
        return prepare_reference(reference, self.accelerator)

    @contextmanager
    def _referring(self) -> Iterator[torch.nn.Module]:
        """The reference, while its log-likelihoods are computed."""
        with torch.no_grad():
            if self._reference is not None:
                yield self._reference
            else:
                with self.model.disable_adapter():
                    yield self.model

    def drawn(self, batch: Batch, first: int) -> Batch:
        """The batch with its sides cut and masked, each as often as there are draws."""
        rows = Rows(*(batch[name].repeat(self._draws, 1) for name in _ROWS))
        pairs = range(first, first + len(batch["input_ids"]) // 2)
        where = {"seed": self.args.seed, "step": self.state.global_step, "pairs": self.examples}
        draws = PairDraws(**where, places=pairs, draws=self._draws)
        answers = self.with_tails(rows.cut(draws.numbers(rows.counts)), draws.tails())
        return self._with_masks(batch, answers, draws.masks(answers.trained, rows.counts))

    def _with_masks(self, batch: Batch, answers: Answers, level: Level) -> Batch:
        lengths = (batch["labels"] != IGNORED).sum(dim=1)
        noise = {**vars(level.noise), "weight": level.weight}
        return {**vars(answers), **noise, "lengths": lengths, "tokens": batch["tokens"]}

    def counted(self, batch: Batch) -> torch.Tensor:
        """The pairs of a batch."""
        return torch.tensor(len(batch["lengths"]) // 2, device=batch["lengths"].device)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of one batch; `num_items_in_batch` is the number of pairs of the optimiser step on all ranks."""
        answers = Answers(inputs["ids"], inputs["attended"], inputs["trained"])
        level = Level(Noise(inputs["masked"], inputs["share"]), inputs["weight"])
        with self._referring() as reference:  # before the model's activations are there
            expected = estimated(reference, self.base, answers, level, self._draws)
        changes = estimated(model, self.base, answers, level, self._draws) - expected
        measured = self._measured(changes, inputs["lengths"])
        self._add("train", measured.detach())
        self._tokens += inputs["tokens"]
        return self.part_of_step(measured[:, 0].sum(), num_items_in_batch)

    def _measured(self, changes: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The loss of each pair, and its metrics in the order of `_MEASURED` [pairs, metrics]."""
        pairs = Changes(*changes.chunk(2), *lengths.chunk(2))
        chosen, rejected = (self.args.beta * each.detach() for each in (pairs.chosen, pairs.rejected))
        margin = chosen - rejected
        right = (margin > 0).to(margin) + 0.5 * (margin == 0)  # of ties half
        losses = pair_losses(self.args.loss_type[0], pairs, self.args.beta)
        return torch.stack([losses, margin, right, chosen, rejected], dim=1)

    def _add(self, name: str, measured: torch.Tensor) -> None:
        self._metrics[name] += torch.cat([measured.double().sum(dim=0), measured.new_tensor([len(measured)])])

    def probed_loss(self, model: PreTrainedModel, inputs: Batch) -> torch.Tensor:
        """The loss of a batch with the most masked tokens that draws can have, for `dimba.trainers.models.memory`."""
        rows = Rows(*(inputs[name].repeat(self._draws, 1) for name in _ROWS))
        [answers] = rows.all(1)
        sides, width = inputs["labels"].shape
        parts = torch.arange(1, self._draws + 1, device=answers.ids.device).repeat_interleave(sides) / self._draws
        masked = answers.trained & (torch.arange(width, device=parts.device) < parts[:, None] * width)
        level = Level(Noise(masked, parts), 1 / parts)
        return self.compute_loss(model, self._with_masks(inputs, answers, level), num_items_in_batch=sides // 2)

    def prediction_step(
        self, model: torch.nn.Module, inputs: Batch, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, None, None]:
        """(the mean loss of the pairs, None, None), from the fixed masks of each side."""
        inputs = self._prepare_inputs(inputs)
        rows = Rows(*(inputs[name] for name in _ROWS))
        with torch.no_grad(), self.compute_loss_context_manager():
            changes = -self._bounds(model, rows)
            with self._referring() as reference:
                changes += self._bounds(reference, rows)
            measured = self._measured(changes, (inputs["labels"] != IGNORED).sum(dim=1))
        self._add("eval", self.accelerator.gather_for_metrics(measured))
        return measured[:, 0].mean().float(), None, None

    def _bounds(self, model: torch.nn.Module, rows: Rows) -> torch.Tensor:
        found = [bounds(model, self.base, answers) for answers in self.evaluated_answers(rows)]
        return torch.stack(found).sum(dim=0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was measured of the pairs, by TRL's names too. All ranks must call it together."""
        name, prefix = ("eval", "eval_") if "eval_loss" in logs else ("train", "")
        sums = self._metrics[name]
        if name == "train":  # those of an evaluation are of all ranks
            sums = self.accelerator.reduce(sums, "sum")
        *totals, pairs = sums.tolist()
        if pairs:
            means = {key: total / pairs for key, total in zip(_MEASURED, totals, strict=True)}
            named = {theirs: means[ours] for theirs, ours in PLAIN.items()} | means
            logs.update({f"{prefix}{key}": value for key, value in named.items()})
        self._metrics[name] = self._no_sums()
        super().log(logs, start_time)
