"""From the flags of DPO to pairs of tokenised answers, a report of them, and batches."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dimba.common.errors import BadInput
from dimba.dataset.pairs import Tally
from dimba.dataset.prompt_examples import Task, TaskForm, answered, tasks_of
from dimba.dataset.token_report import BadRowReport, DataReport, Part, Shown, counted
from dimba.objectives.dpo import DpoOptions, recognise_pairs
from dimba.trainers.data.chat import IGNORED, Example, prepare_tokenizer
from dimba.trainers.data.loading import Data, held_out, source_of
from dimba.trainers.data.reporting import clipped, histogram, telling
from dimba.trainers.data.rows import Source
from dimba.trainers.data.selection import MOST_CUT, hold_out
from dimba.trainers.data.template_notes import template_notes, template_problem
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import Problem, Progress, Read, prepare, row_problem
from dimba.trainers.models.loading import load_tokenizer

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PairRows:
    """Rows read as pairs; the examples of a row are its prompt with the chosen and with the rejected answer."""

    source: Source

    @property
    def columns(self) -> Mapping[str, str]:
        """Ours: theirs."""
        return self.source.columns

    def identity(self) -> list[Any]:
        """The source's, and that it is read as pairs."""
        return [*self.source.identity(), *SIDES]

    def samples(self) -> tuple[TaskForm, Iterator[tuple[str, Read]]]:
        """(format, (where, both chats) of every row); raises BadInput where rows do not compare two answers."""
        form, found = tasks_of(self.source.rows(), self.source.columns, recognise_pairs)
        return form, ((where, _both(each) if isinstance(each, Task) else each) for where, each in found)

    def fault(self, examples: Sequence[Example]) -> str:
        """Why two answers cannot be compared: by their tokens they follow other prompts, or are the same."""
        chosen, rejected = examples
        shared = prompt_length(chosen, rejected)
        if not np.array_equal(chosen.input_ids[:shared], rejected.input_ids[:shared]):
            return "the chat template writes another prompt before the rejected answer than before the chosen one"
        same = np.array_equal(chosen.input_ids, rejected.input_ids)
        return "both answers are the same once the chat template has written them" if same else ""


def _both(task: Task) -> tuple[Any, ...]:
    return answered(task, task.chosen), answered(task, task.rejected)


def prompt_length(chosen: Example, rejected: Example) -> int:
    """Tokens before the first that carries loss on either side: what both answers continue."""
    return min(int(chosen.trained.argmax()), int(rejected.trained.argmax()))


@dataclass(frozen=True)
class Pairs:
    """Pairs by their number in the token store, int32 [pairs]; both sides are cut at `max_length` tokens.

    Rows 2 n and 2 n + 1 of the store are the chosen and the rejected side of pair n.
    """

    store: TokenStore
    numbers: Any
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


@dataclass(frozen=True)
class _Selection:
    """What becomes of the pairs of a store: `long` ones have a side over the limit."""

    train: Pairs
    validation: Pairs
    long: Any  # numbers
    left_out: int
    cut: int  # tokens in no pair that is trained on
    cut_trained: int


def load_pairs(args: DpoOptions, progress: Progress) -> Data[Pairs]:
    """Reads, tokenises (or finds the tokens), holds out and cuts as `args` say; raises BadInput."""
    tokenizer = load_tokenizer(args.base_checkpoint, code=args.trust_remote_code)
    said = prepare_tokenizer(tokenizer)
    source = source_of(args)
    store, cached = prepare(tokenizer, args.train_on, PairRows(source), progress)
    share, split = held_out(args)
    selection = _select(store, args, share)
    if split:
        other, _ = prepare(tokenizer, args.train_on, PairRows(replace(source, split=split)), progress)
        selection = replace(selection, validation=_select(other, args, 0).train)
    problem, hint = _problem(selection, tokenizer, args)
    report = _report(selection, tokenizer, args)
    notes = (said, *_skipped(store).notes(len(store) // 2), *_token_notes(store), *template_notes(store, tokenizer))
    report = replace(report, notes=tuple(filter(None, notes)), problem=problem, hint=hint, cached=cached)
    return Data(tokenizer, selection.train, selection.validation, report)


def _skipped(store: TokenStore) -> Tally:
    noted = store.note["skipped"]
    return Tally(Counter(noted["counts"]), noted["first"])


def _token_notes(store: TokenStore) -> list[str]:
    chosen, rejected = (int(store.trained_counts[side::2].sum()) for side in range(2))
    return [f"trained tokens: {chosen:,} of chosen answers, {rejected:,} of rejected ones"]


def _select(store: TokenStore, args: DpoOptions, wanted: float) -> _Selection:
    limit = args.max_length
    every, longest = np.arange(len(store) // 2), store.lengths.reshape(-1, 2).max(axis=1)
    long = np.flatnonzero(longest > limit)
    whole = Pairs(store, every, limit)
    comparing = [] if args.on_long == "drop" else [pair for pair in long if _compares(*whole.sides(int(pair)))]
    left_out = np.setdiff1d(long, comparing)
    kept = np.setdiff1d(every, left_out)
    chosen = _held_out(whole, kept, wanted, args.seed)
    lost = [_lost(store, int(pair), 0 if pair in left_out else limit) for pair in long]
    cut, cut_trained = np.array(lost, dtype=np.int64).reshape(-1, 2).sum(axis=0).tolist()
    train, validation = (Pairs(store, numbers, limit) for numbers in (np.setdiff1d(kept, chosen), chosen))
    return _Selection(train, validation, long, len(left_out), cut, cut_trained)


def _compares(chosen: Example, rejected: Example) -> bool:
    """Whether something is left of both answers, and not the same of both."""
    both = chosen.trained.any() and rejected.trained.any()
    return bool(both) and not np.array_equal(chosen.input_ids, rejected.input_ids)


def _lost(store: TokenStore, pair: int, limit: int) -> tuple[int, int]:
    """(tokens, trained tokens) of a pair behind its first `limit`."""
    behind = [store.row(2 * pair + side).trained[limit:] for side in range(2)]
    return sum(len(each) for each in behind), sum(int(each.sum()) for each in behind)


def _held_out(pairs: Pairs, kept: Any, wanted: float, seed: int) -> Any:
    """The numbers of pairs to validate on: pairs of one prompt are on the same side; raises BadInput."""
    if not wanted:
        return kept[:0]
    prompts = [_prompt(pairs, int(pair)) for pair in kept]
    different = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    chosen = hold_out(np.arange(len(different)), wanted, seed)
    if not 0 < len(chosen) < len(different):
        what = f"--validation-split {wanted:g}: {counted(len(kept), 'pair')} with {len(different):,} different prompts"
        raise BadInput(what, "hold out at least one prompt, and fewer than all: pairs of one prompt stay together")
    return kept[np.isin([different[prompt] for prompt in prompts], chosen)]


def _prompt(pairs: Pairs, pair: int) -> bytes:
    chosen, rejected = pairs.sides(pair)
    return hashlib.sha256(chosen.input_ids[: prompt_length(chosen, rejected)].tobytes()).digest()


def _problem(selection: _Selection, tokenizer: Any, args: DpoOptions) -> Problem:
    """The first thing that is wrong; two empty texts where nothing is."""
    stores = {id(each.store): each.store for each in (selection.train, selection.validation)}.values()
    found = [template_problem(each, tokenizer, args.base_checkpoint) for each in stores]
    found += [row_problem(each.note, skip_bad=args.skip_bad_rows) for each in stores if each.note["rows"]]
    found += [_skipped(each).problem(len(each) // 2) for each in stores]
    found.append(_length_problem(selection, args))
    return next((problem for problem in found if problem), ("", ""))


def _length_problem(selection: _Selection, args: DpoOptions) -> Problem | None:
    store, limit = selection.train.store, args.max_length
    if not len(store):
        return "every pair compares nothing", "give other pairs"
    longest = int(store.lengths.max())
    if not len(selection.train):
        return f"no pair compares anything within {limit:,} tokens", f"raise `training.max_length` (up to {longest:,})"
    trained = int(store.trained_counts.sum())
    if args.on_long or selection.cut_trained <= MOST_CUT * trained:
        return None
    return (
        f"{counted(len(selection.long), 'pair')} with an answer longer than max_length {limit:,}: "
        f"{selection.cut_trained / trained:.0%} of the trained tokens ({selection.cut_trained:,} of {trained:,}) would "
        "be cut off",
        f"raise `training.max_length` (the longest has {longest:,} tokens), or choose what happens with --on-long "
        "truncate or drop (in a spec `trainer_args: {on-long: drop}`)",
    )


def _report(selection: _Selection, tokenizer: Any, args: DpoOptions) -> DataReport:
    """Everything that can be counted; the length of a pair is that of its longer side."""
    store, taken = selection.train.store, selection.train if len(selection.train) else selection.validation
    note, lengths = store.note, store.lengths.reshape(-1, 2).max(axis=1)
    shown = np.array([max(len(side.input_ids) for side in taken.sides(int(pair))) for pair in taken.numbers])
    return DataReport(
        format=note["format"],
        columns=note["columns"],
        rows=note["rows"],
        unusable=note["unusable"],
        bad=tuple(BadRowReport(**each) for each in note["bad"]),
        tokens=int(store.lengths.sum()),
        trained_tokens=int(store.trained_counts.sum()),
        max_length=args.max_length,
        on_long=args.on_long,
        long_rows=len(selection.long),
        cut_tokens=selection.cut,
        cut_trained_tokens=selection.cut_trained,
        left_out=selection.left_out,
        examples=len(selection.train),
        validation=len(selection.validation),
        median=int(np.median(lengths)) if len(lengths) else 0,
        longest=int(lengths.max(initial=0)),
        lengths=histogram(lengths, args.max_length),
        shown=tuple(_shown(taken, int(taken.numbers[at]), tokenizer, title) for title, at in telling(shown)),
    )


def _shown(pairs: Pairs, pair: int, tokenizer: Any, title: str) -> Shown:
    """The prompt with the chosen answer, whose trained part is marked, and the rejected answer below."""
    chosen, rejected = pairs.sides(pair)
    start = prompt_length(chosen, rejected)
    answer = Example(rejected.input_ids[start:], np.zeros(len(rejected.input_ids) - start, dtype=bool))
    parts = (*clipped(chosen, tokenizer), Part(text="\nrejected: ", trained=False), *clipped(answer, tokenizer))
    where = f"{pairs.store.note['where']}{pairs.store.numbers[2 * pair]}"
    return Shown(where=where, tokens=len(chosen.input_ids) + len(rejected.input_ids), parts=parts, title=title)


def as_dataset(pairs: Pairs, *, step: int = 1) -> Any:
    """A `datasets.Dataset` of `Pairs.feature`, read from the token store when asked for.

    The first pairs come again at the end until they are a multiple of `step`: no pair is left out, and each step has
    the same pairs on any number of processes.
    """
    from datasets import Dataset

    def fetch(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        features = [pairs.feature(pair) for pair in batch["pair"]]
        return {name: [each[name] for each in features] for name in features[0]}

    numbers = np.resize(pairs.numbers, len(pairs) + repeated(len(pairs), step))
    return Dataset.from_dict({"pair": numbers}).with_transform(fetch)


def repeated(pairs: int, step: int) -> int:
    """How many pairs come again to fill the last step of `step` pairs."""
    return -pairs % step


def collate_pairs(features: Sequence[Mapping[str, Sequence[int]]], *, pad_id: int) -> dict[str, Any]:
    """As TRL's DPOTrainer takes them: `input_ids`, `attention_mask` and `completion_mask`, int64 [2 × pairs, longest].

    The chosen sides come first; `completion_mask` is 1 for the tokens that carry loss, as SFT's labels have it.
    """
    from dimba.trainers.data.packing import collate_padded

    sides = [
        {"input_ids": feature[f"{side}_ids"], "labels": feature[f"{side}_labels"]}
        for side in SIDES
        for feature in features
    ]
    batch = collate_padded(sides, pad_id=pad_id)
    mask = (batch["labels"] != IGNORED).long()
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "completion_mask": mask}


def longest_pairs(*, rows: int, length: int, pad_id: int) -> dict[str, Any]:
    """A batch of `rows` pairs of which both sides are `length` tokens, to probe the memory with."""
    side = [1] * length
    return collate_pairs(
        [{f"{name}_{what}": side for name in SIDES for what in ("ids", "labels")}] * rows, pad_id=pad_id
    )
