"""Pairs of tokenised answers for DPO, a report of them, and batches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dimba.common.errors import BadInput, Location
from dimba.common.units import quantity
from dimba.dataset.pairs import Tally
from dimba.dataset.prompt_examples import PromptExample, PromptFormat, prompts_of, with_answer
from dimba.dataset.samples import Sample
from dimba.dataset.token_report import DataReport, Part, Shown, SourceReport
from dimba.objectives.dpo import DpoOptions, recognise_pairs
from dimba.options import table
from dimba.trainers.data.chat import prepare_tokenizer
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.loading import Data, held_out_rows, sources_from
from dimba.trainers.data.mixture import report_sources, source_problem, sources_of, weighted
from dimba.trainers.data.render import TemplateSettings
from dimba.trainers.data.reporting import count, shortened, typical_examples
from dimba.trainers.data.rows import Source
from dimba.trainers.data.selection import Selected, cuts_too_much, hold_out
from dimba.trainers.data.template_notes import control_problem, template_notes, template_problem
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import Problem, RowResult, load_or_tokenize, row_problem
from dimba.trainers.models.families import family_at
from dimba.trainers.models.loading import load_tokenizer
from dimba.trainers.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PairRows:
    """Rows read as pairs; the examples of a row are its prompt with the chosen and with the rejected answer."""

    source: Source

    @property
    def origin(self) -> Source:
        """The source."""
        return self.source

    @property
    def columns(self) -> Mapping[str, str]:
        """Our names of columns → the names in the data."""
        return self.source.columns

    def identity(self) -> list[Any]:
        """The identity of the source, read as pairs."""
        return [*self.source.identity(), *SIDES]

    def samples(self) -> tuple[PromptFormat, Iterator[tuple[Location, RowResult]]]:
        """(format, (where, both chats) of every row); raises BadInput for rows without two answers."""
        form, found = prompts_of(self.source.rows(), self.source.columns, recognise_pairs)
        return form, ((where, _both(each) if isinstance(each, PromptExample) else each) for where, each in found)

    def problem(self, examples: Sequence[Example]) -> str:
        """Why two answers cannot be compared: their tokens follow different prompts, or are equal."""
        chosen, rejected = examples
        shared = prompt_length(chosen, rejected)
        if not np.array_equal(chosen.input_ids[:shared], rejected.input_ids[:shared]):
            return "the chat template renders different prompts for the chosen and the rejected answer"
        same = np.array_equal(chosen.input_ids, rejected.input_ids)
        return "both answers are equal once the chat template has rendered them" if same else ""


def _both(example: PromptExample) -> tuple[Sample, ...]:
    return with_answer(example, example.chosen), with_answer(example, example.rejected)


def prompt_length(chosen: Example, rejected: Example) -> int:
    """Tokens of the prompt that both answers continue: those before the first with loss on either side."""
    return min(int(chosen.trained.argmax()), int(rejected.trained.argmax()))


@dataclass(frozen=True)
class Pairs:
    """Pairs by their number in the token store, int32 [pairs]; both sides are cut at `max_length` tokens.

    Rows 2 n and 2 n + 1 of the store are the chosen and the rejected side of pair n.
    """

    store: TokenStore
    numbers: np.ndarray
    max_length: int

    def __len__(self) -> int:
        return len(self.numbers)

    def sides(self, pair: int) -> tuple[Example, Example]:
        """The chosen and the rejected side of a pair, cut."""
        whole = (self.store.row(2 * pair + side) for side in range(2))
        chosen, rejected = (
            Example(each.input_ids[: self.max_length], each.trained[: self.max_length]) for each in whole
        )
        return chosen, rejected

    def feature(self, pair: int) -> dict[str, list[int]]:
        """`chosen_ids`, `chosen_labels`, `rejected_ids` and `rejected_labels` of a pair."""
        found: dict[str, list[int]] = {}
        for name, side in zip(SIDES, self.sides(pair), strict=True):
            found |= {f"{name}_ids": side.input_ids.tolist(), f"{name}_labels": side.labels().tolist()}
        return found


def load_pairs(options: DpoOptions, progress: Progress) -> Data[Pairs]:
    """The pairs of the data, tokenised or taken from the cache, held out and cut; raises BadInput."""
    tokenizer = load_tokenizer(options.base_checkpoint, code=options.trust_remote_code)
    tokenizer_note = prepare_tokenizer(tokenizer)
    sources, settings = sources_from(options), TemplateSettings.of(options)
    rows = [PairRows(each) for each in sources]
    store, cached = load_or_tokenize(tokenizer, options.train_on, rows, progress, settings)
    share, split = held_out_rows(options)
    selection = _select(store, options, share)
    if split:
        rows = [PairRows(replace(each, split=split)) for each in sources]
        other, _ = load_or_tokenize(tokenizer, options.train_on, rows, progress, settings)
        selection = replace(selection, validation=_select(other, options, 0).train)
    train, counts = _weighted(selection.train, sources, options)
    problem, hint = _problem(selection, tokenizer, options) or source_problem(counts) or ("", "")
    report = _report(selection, tokenizer, options)
    skipped = _skipped(store).notes(len(store) // 2)
    further = (*skipped, _token_note(store), family_at(options.base_checkpoint).note)
    further = (*further, *template_notes(store, tokenizer, options))
    notes = (*(note for each in sources for note in each.files.notes), tokenizer_note, *further)
    report = replace(report, examples=len(train), sources=counts, problem=problem, hint=hint, cached=cached)
    report = replace(report, notes=tuple(filter(None, notes)))
    return Data(tokenizer, train, selection.validation, report)


def _weighted(pairs: Pairs, sources: Sequence[Source], options: DpoOptions) -> tuple[Pairs, tuple[SourceReport, ...]]:
    """(the pairs of an epoch, the counts of each source of a list)."""
    if not options.mixture:
        return pairs, ()
    numbers = sources_of(pairs.store, 2 * pairs.numbers)
    chosen = weighted(pairs.numbers, numbers, [each.weight for each in sources], options.seed)
    return replace(pairs, numbers=pairs.numbers[chosen]), report_sources(sources, pairs.store, numbers[chosen])


def _skipped(store: TokenStore) -> Tally:
    note = store.note["skipped"]
    return Tally(Counter(note["counts"]), {why: Location(at) for why, at in note["first"].items()})


def _token_note(store: TokenStore) -> str:
    chosen, rejected = (int(store.trained_counts[side::2].sum()) for side in range(2))
    return f"trained tokens: {chosen:,} of chosen answers, {rejected:,} of rejected ones"


def _select(store: TokenStore, options: DpoOptions, wanted: float) -> Selected[Pairs]:
    limit = options.max_length
    every, longest = np.arange(len(store) // 2), store.lengths.reshape(-1, 2).max(axis=1)
    long = np.flatnonzero(longest > limit)
    whole = Pairs(store, every, limit)
    comparing = [] if options.on_long == "drop" else [pair for pair in long if _compares(*whole.sides(int(pair)))]
    left_out = np.setdiff1d(long, comparing)
    kept = np.setdiff1d(every, left_out)
    chosen = _held_out(whole, kept, wanted, options.seed)
    lost = [_lost(store, int(pair), 0 if pair in left_out else limit) for pair in long]
    cut, cut_trained = np.array(lost, dtype=np.int64).reshape(-1, 2).sum(axis=0).tolist()
    train, validation = (Pairs(store, numbers, limit) for numbers in (np.setdiff1d(kept, chosen), chosen))
    return Selected(
        train=train,
        validation=validation,
        long_rows=len(long),
        cut_tokens=cut,
        cut_trained_tokens=cut_trained,
        dropped_rows=len(left_out),
    )


def _compares(chosen: Example, rejected: Example) -> bool:
    """Whether something is left of both answers, and not the same of both."""
    both = chosen.trained.any() and rejected.trained.any()
    return bool(both) and not np.array_equal(chosen.input_ids, rejected.input_ids)


def _lost(store: TokenStore, pair: int, limit: int) -> tuple[int, int]:
    """(tokens, trained tokens) of a pair behind its first `limit`."""
    behind = [store.row(2 * pair + side).trained[limit:] for side in range(2)]
    return sum(len(each) for each in behind), sum(int(each.sum()) for each in behind)


def _held_out(pairs: Pairs, kept: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """The numbers of pairs to validate on: pairs of one prompt are on the same side; raises BadInput."""
    if not wanted:
        return kept[:0]
    prompts = [_prompt(pairs, int(pair)) for pair in kept]
    different = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    chosen = hold_out(np.arange(len(different)), wanted, seed)
    if not 0 < len(chosen) < len(different):
        cause = f"{wanted:g} of {quantity(len(kept), 'pair')} with {len(different):,} different prompts"
        hint = "hold out at least one prompt, and fewer than all: pairs of one prompt stay together"
        raise BadInput(cause, hint, key=table.VALIDATION_SPLIT.flag)
    return kept[np.isin([different[prompt] for prompt in prompts], chosen)]


def _prompt(pairs: Pairs, pair: int) -> bytes:
    chosen, rejected = pairs.sides(pair)
    return hashlib.sha256(chosen.input_ids[: prompt_length(chosen, rejected)].tobytes()).digest()


def _problem(selection: Selected[Pairs], tokenizer: PreTrainedTokenizerFast, options: DpoOptions) -> Problem | None:
    """The first problem of the data."""
    stores = {id(each.store): each.store for each in (selection.train, selection.validation)}.values()
    found = [template_problem(each, tokenizer, options.base_checkpoint) for each in stores]
    found += [row_problem(each.note, skip_bad=options.skip_bad_rows) for each in stores if each.note["rows"]]
    found += [control_problem(each.note, options) for each in stores]
    found += [_skipped(each).problem(len(each) // 2) for each in stores]
    found.append(_length_problem(selection, options))
    return next((problem for problem in found if problem), None)


def _length_problem(selection: Selected[Pairs], options: DpoOptions) -> Problem | None:
    store, limit = selection.train.store, options.max_length
    if not len(store):
        return "every pair compares nothing", "give other pairs"
    longest = int(store.lengths.max())
    if not len(selection.train):
        return f"no pair compares anything within {limit:,} tokens", f"raise `training.max_length` (up to {longest:,})"
    if not cuts_too_much(store, selection, options.on_long):
        return None
    cut, trained = selection.cut_trained_tokens, int(store.trained_counts.sum())
    return (
        f"{quantity(selection.long_rows, 'pair')} with an answer longer than max_length {limit:,}: "
        f"{cut / trained:.0%} of the trained tokens ({cut:,} of {trained:,}) would be cut off",
        f"raise `training.max_length` (the longest has {longest:,} tokens), or choose what happens with --on-long "
        "truncate or drop (in a spec `trainer_args: {on-long: drop}`)",
    )


def _report(selection: Selected[Pairs], tokenizer: PreTrainedTokenizerFast, options: DpoOptions) -> DataReport:
    """Everything that can be counted; the length of a pair is that of its longer side."""
    store, taken = selection.train.store, selection.shown
    lengths = np.array([max(len(side.input_ids) for side in taken.sides(int(pair))) for pair in taken.numbers])
    shown = tuple(_shown(taken, int(taken.numbers[at]), tokenizer, title) for title, at in typical_examples(lengths))
    longer = store.lengths.reshape(-1, 2).max(axis=1)
    return count(store, longer, selection, shown, max_length=options.max_length, on_long=options.on_long)


def _shown(pairs: Pairs, pair: int, tokenizer: PreTrainedTokenizerFast, title: str) -> Shown:
    """The prompt with the chosen answer, whose trained part is marked, and the rejected answer below."""
    chosen, rejected = pairs.sides(pair)
    start = prompt_length(chosen, rejected)
    answer = Example(rejected.input_ids[start:], np.zeros(len(rejected.input_ids) - start, dtype=bool))
    parts = (*shortened(chosen, tokenizer), Part(text="\nrejected: ", trained=False), *shortened(answer, tokenizer))
    where = pairs.store.where(2 * pair)
    return Shown(where=where, tokens=len(chosen.input_ids) + len(rejected.input_ids), parts=parts, title=title)
