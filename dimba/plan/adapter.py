"""The adapter of a job: the weights that it covers, and what the base does not have or peft does not train. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from dimba.common.checkpoint.adapted import EXPERT, JOINED, adapted_by_default
from dimba.common.errors import BadInput
from dimba.host.facts import CheckpointFacts
from dimba.options.lora_table import (
    ALL_LINEAR,
    DROPOUT,
    EXPERT_MATRICES,
    INIT,
    MODULES_TO_SAVE,
    NOT_QUANTISED,
    ON_EXPERTS_HINT,
    START_HINT,
    TARGET_MODULES,
    TOKENS_HINT,
    TRAINABLE_TOKENS,
    USE_DORA,
    covered,
    covers,
    is_pattern,
    name_hint,
)
from dimba.options.param import Param
from dimba.plan.job import ResolvedJob
from dimba.spec import JobSpec
from dimba.spec.training import Lora

_HEAD = "lm_head"  # a head that shares the embedding's weights is in no file
_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings)$")
_HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output)$")
_PREFIXES = ("", "model.", "transformer.", "backbone.", "gpt_neox.", "model.language_model.", "language_model.")
_SHOWN = 12  # names in a hint


class _Same:
    """A value that equals only itself, to remember what was computed from it."""

    def __init__(self, value: CheckpointFacts) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


def adapter_parameters(job: ResolvedJob, checkpoint: CheckpointFacts) -> int:
    """Parameters that are trained beside a frozen base: the adapter's, and the modules that are trained whole."""
    lora = job.lora
    targets, whole, _ = _sizes_of(lora, checkpoint)
    # DoRA adds a magnitude for each output; half of both sides is near enough for it.
    magnitudes = targets // 2 if lora.use_dora else 0
    return lora.r * targets + magnitudes + whole


def copied_parameters(job: ResolvedJob, checkpoint: CheckpointFacts) -> int:
    """Those that autocast copies: not an embedding, which is no matrix, nor a head, which is read in tiles."""
    lora = job.lora
    targets, whole, _ = _sizes_of(lora, checkpoint)
    saved = _whole(lora.modules_to_save, checkpoint.modules) if lora.modules_to_save else set()
    ends = [name for name in saved if _EMBEDDINGS.search(name) or _HEADS.search(name)]
    return lora.r * targets + whole - sum(checkpoint.modules[name] for name in ends)


@lru_cache(maxsize=8)  # a plan estimates often, and a mixture of experts has tens of thousands of names
def _sizes(base: _Same, targets: tuple[str, ...], saved: tuple[str, ...]) -> tuple[int, int, bool]:
    """(sides of all matrices with an adapter, parameters of modules trained whole, whether experts get an adapter)."""
    sides, modules = base.value.linear_sides or {}, base.value.modules
    whole = _whole(saved, modules)
    found = _matrices(base, targets, saved)
    experts = any(EXPERT in name for name in found)
    return sum(sides[name] for name in found), sum(modules[name] for name in whole), experts


def _whole(saved: Sequence[str], modules: Mapping[str, int]) -> set[str]:
    """The names of the modules that are trained whole; a head that is in no file shares the embedding's weights."""
    within = tuple(f".{each}." for each in saved if not is_pattern(each))
    whole = set(covered(saved, modules)) | {name for name in modules if any(part in f".{name}." for part in within)}
    if covers(saved, _HEAD) and not any(map(_HEADS.search, modules)):
        whole |= {name for name in modules if _EMBEDDINGS.search(name)}
    return whole


def _sizes_of(lora: Lora, checkpoint: CheckpointFacts) -> tuple[int, int, bool]:
    return _sizes(_Same(checkpoint), lora.targets, tuple(lora.modules_to_save))


def adapted_matrices(lora: Lora, checkpoint: CheckpointFacts) -> frozenset[str]:
    """The names of the matrices that get an adapter."""
    return _matrices(_Same(checkpoint), lora.targets, tuple(lora.modules_to_save))


@lru_cache(maxsize=8)
def _matrices(base: _Same, targets: tuple[str, ...], saved: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_targets(targets, saved, base.value))


def _targets(targets: Sequence[str], saved: Sequence[str], checkpoint: CheckpointFacts) -> set[str]:
    """The matrices that get an adapter, by name."""
    names = checkpoint.linear_sides or {}
    if ALL_LINEAR in targets:
        found = adapted_by_default(
            names,
            checkpoint.model_type,
            not_called=checkpoint.family.not_called,
            multimodal=bool(checkpoint.sees),
        )
    else:
        found = set(covered(targets, names, _PREFIXES))
    return found - set(covered(saved, names))


def adapter_problems(job: ResolvedJob, checkpoint: CheckpointFacts) -> Iterator[BadInput]:
    """What `lora` asks for and the base does not have or peft does not train, as far as the names in its files tell."""
    lora = job.lora
    if job.method == "full":
        return
    if job.method == "qlora" and lora.init in NOT_QUANTISED:
        yield BadInput(f"{lora.init} needs a base that is not quantised", START_HINT, key=INIT.key)
    if ALL_LINEAR not in lora.targets and covers(lora.targets, _HEAD):
        hint = f"`lora: {{modules_to_save: [{_HEAD}]}}` trains it whole"
        yield _refused(f"`{_HEAD}` gets no adapter: the loss reads its weights themselves", hint)
    for token in checkpoint.absent_tokens:
        yield BadInput(f"the tokenizer has no token `{token}`", TOKENS_HINT, key=TRAINABLE_TOKENS.key)
    if checkpoint.modules and not checkpoint.quantization:
        yield from _joined_problems(lora, checkpoint)
        yield from name_problems(lora, checkpoint)


def _joined_problems(lora: Lora, checkpoint: CheckpointFacts) -> Iterator[BadInput]:
    """Peft adapts joined experts as one parameter, on which not everything works."""
    asked = {DROPOUT.key: lora.dropout, USE_DORA.key: lora.use_dora, INIT.key: lora.init in NOT_QUANTISED}
    keys = [key for key, is_asked in asked.items() if is_asked]
    if not keys or checkpoint.model_type not in JOINED or not _sizes_of(lora, checkpoint)[2]:
        return
    for key in keys:
        yield BadInput("not on joined experts, which peft adapts as one parameter", ON_EXPERTS_HINT, key=key)


def name_problems(lora: Lora, checkpoint: CheckpointFacts) -> Iterator[BadInput]:
    """Names that no module of the base has, and those of modules that get no adapter.

    Transformers renames some modules while loading: a base that also sees, and the experts' names, are left to the
    trainer.
    """
    if lora.targets == (ALL_LINEAR,) and not lora.modules_to_save:
        return
    names = {part for module in checkpoint.modules for part in module.split(".") if not part.isdecimal()}
    matrices = {name.rpartition(".")[2] for name in checkpoint.linear_sides or {}}
    has_experts = "experts" in names
    for param, wanted in ((TARGET_MODULES, lora.targets), (MODULES_TO_SAVE, lora.modules_to_save)):
        for each in wanted:
            last = each.rpartition(".")[2]
            is_left = checkpoint.sees or (has_experts and (last in EXPERT_MATRICES or last not in names))
            if each in (ALL_LINEAR, _HEAD) or is_left:
                continue
            if not (
                _pattern_fits(each, checkpoint) if is_pattern(each) else last in names or _is_part(each, checkpoint)
            ):
                yield _unknown(each, param, matrices if param is TARGET_MODULES and matrices else names)
            elif param is TARGET_MODULES:
                yield from _target_problems(each, lora, checkpoint)


def _is_part(name: str, checkpoint: CheckpointFacts) -> bool:
    """Whether a name is, or is the end of, that of a module or of what holds it."""
    return any(f".{name}." in f".{prefix}{module}." for module in checkpoint.modules for prefix in _PREFIXES)


def _pattern_fits(pattern: str, checkpoint: CheckpointFacts) -> bool:
    """Whether a regular expression covers a module, named as in the files or with what these may leave out."""
    if any(EXPERT in name for name in checkpoint.modules):
        return True
    return bool(covered([pattern], checkpoint.modules, _PREFIXES))


def _target_problems(target: str, lora: Lora, checkpoint: CheckpointFacts) -> Iterator[BadInput]:
    found = covered([target], checkpoint.modules)
    embeddings = [name for name in found if _EMBEDDINGS.search(name)]
    if embeddings and lora.trainable_tokens:
        hint = f"leave `{target}` out of the target modules, or leave out `{TRAINABLE_TOKENS.key}`"
        yield _refused(f"`{target}` cannot have both an adapter and rows of tokens that are trained", hint)
    if is_pattern(target) or embeddings or set(found) & set(checkpoint.linear_sides or {}):
        return
    held = {name.partition(f".{target}.")[2] for name in checkpoint.modules if f".{target}." in f".{name}"}
    what = f"holds {', '.join(sorted(held)[:_SHOWN])}: name those" if held and not found else "is no matrix"
    matrices = sorted({name.rpartition(".")[2] for name in checkpoint.linear_sides or {}})
    yield _refused(f"`{target}` {what}", f"its matrices: {', '.join(matrices[:_SHOWN])}")


def _refused(problem: str, hint: str) -> BadInput:
    return BadInput(problem, hint, key=TARGET_MODULES.key)


def _unknown(name: str, param: Param, names: set[str]) -> BadInput:
    return BadInput(f"no module of the base is named `{name}`", name_hint(name, sorted(names), param), key=param.key)


def adapter_notes(spec: JobSpec, checkpoint: CheckpointFacts) -> Iterator[str]:
    """A line on the keys of `lora` that are not used, and one on the parts of experts that get no adapter."""
    given = sorted(spec.lora.model_fields_set - {"r", "alpha"})
    if spec.method == "full":
        if given:
            keys = ", ".join(given)
            yield f"lora: {keys} without effect: `method: full` trains every weight, without an adapter"
        return
    names = set(checkpoint.linear_sides or {})
    if ALL_LINEAR not in spec.lora.targets or not any(EXPERT in name for name in names):
        return
    *_, experts = _sizes_of(spec.lora, checkpoint)
    yield f"lora: the routers of the experts get no adapter{'' if experts else ', nor do the experts themselves'}"
