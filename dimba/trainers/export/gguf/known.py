"""Whether llama.cpp knows a model's class and its tokenizer, found out before any weight is converted.

The converter recognises a byte-level BPE tokenizer by a hash over the ids that it makes of one text, and no other: so
also no tokenizer that splits text as a known one does and has another vocabulary. Here the vocabulary alone is
converted, and llama.cpp tokenises texts with it: equal tokens are the proof, whatever the hash says.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dimba.common.contract import read_json_object
from dimba.common.errors import BadInput
from dimba.trainers.export.gguf.engine import LlamaModel
from dimba.trainers.export.gguf.hashes import named_by_hash
from dimba.trainers.export.gguf.library import SENTENCEPIECE, converter
from dimba.trainers.export.gguf.pretokenizers import pre_tokenizer
from dimba.trainers.export.gguf.probes import PROBES, around_added, beginning_difference, first_difference
from dimba.trainers.export.gguf.processes import follow
from dimba.trainers.export.gguf.spm import is_sentencepiece
from dimba.trainers.export.gguf.stage import staged

_MERGED = "export it without GGUF (`--merged`): transformers and vLLM use its tokenizer itself"
# llama.cpp gives special tokens that swallow the space behind them only to models with such a name.
_PHI_3 = "phi-3"
_NAMES_WITH_A_MEANING = re.compile(r"(phi)-?(3)|(modern)-(bert)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the converter has to be called for this model; `problem` says why it cannot be."""

    pre: str = ""  # the pre-tokenizer, where the converter does not recognise it itself
    prefix: str = ""  # of the model's name
    prefix_space: bool = True  # whether llama.cpp puts a space in front of a text, as SentencePiece does
    problem: str = ""
    hint: str = _MERGED

    def arguments(self, name: str) -> list[str]:
        """The tool's arguments for a model called `name`."""
        plain = _NAMES_WITH_A_MEANING.sub(lambda match: " ".join(filter(None, match.groups())), name)
        return ["--name", f"{self.prefix} {plain}".strip(), *(["--pre", self.pre] if self.pre else [])]


def tokenizer_problem(model_folder: Path) -> str:
    """Why llama.cpp cannot have this model, by its class or its tokenizer; empty where it can. Reads no weights.

    Raises:
        HostCannot: llama.cpp is not here.
    """
    return recognised(model_folder).problem


def recognised(model_folder: Path) -> Recipe:
    """How to convert the model; found out once per process and state of its tokenizer."""
    times = tuple(sorted((file.name, file.stat().st_mtime_ns) for file in model_folder.glob("*.json")))
    return _recognised(model_folder, times)


@lru_cache(maxsize=8)
def _recognised(folder: Path, _times: tuple[Any, ...]) -> Recipe:
    if unknown := _unknown_class(folder) or _lacks_sentencepiece(folder):
        return unknown
    tokenizer = _tokenizer(folder)
    recipe = Recipe()
    if _is_byte_level(folder) and not named_by_hash(tokenizer):
        if not (pre := pre_tokenizer(folder)):
            return Recipe(problem="llama.cpp does not know how this base's tokenizer splits text (its pre-tokenizer)")
        recipe = Recipe(pre=pre)
    others = [replace(recipe, prefix=_PHI_3)] if _swallows_spaces(folder) else []
    if is_sentencepiece(folder) and tokenizer.bos_token:
        others.append(replace(recipe, prefix_space=False))
    problem = _difference(folder, tokenizer, recipe)
    if not problem:
        return recipe
    fitting = (other for other in others if not _difference(folder, tokenizer, other))
    return next(fitting, replace(recipe, problem=problem))


def _unknown_class(folder: Path) -> Recipe | None:
    config = read_json_object(folder / "config.json")
    text = config.get("text_config") or {}
    names = (text.get("architectures") if isinstance(text, dict) else None) or config.get("architectures") or []
    if not names:
        return Recipe(problem=f"{folder / 'config.json'} names no `architectures`", hint="complete the base's config")
    if names[0] not in known_classes():
        return Recipe(problem=f"llama.cpp's converter does not know the model class `{names[0]}`")
    return None


def known_classes() -> frozenset[str]:
    """The names of model classes that the converter knows."""
    source = (converter() / "conversion" / "__init__.py").read_text(encoding="utf-8")
    table = re.search(r"TEXT_MODEL_MAP[^{]*\{(.*?)\n\}", source, re.DOTALL)
    return frozenset(re.findall(r'^\s+"([\w.]+)":', table[1], re.MULTILINE)) if table else frozenset()


def _lacks_sentencepiece(folder: Path) -> Recipe | None:
    if (folder / "tokenizer.model").is_file() and not is_sentencepiece(folder) and find_spec("sentencepiece") is None:
        return Recipe(problem="this base's tokenizer.model needs sentencepiece", hint=f"`pip install {SENTENCEPIECE}`")
    return None


def _is_byte_level(folder: Path) -> bool:
    model = read_json_object(folder / "tokenizer.json").get("model") or {}
    return model.get("type") == "BPE" and not model.get("byte_fallback")


def _difference(folder: Path, tokenizer: Any, recipe: Recipe) -> str:
    """Where llama.cpp's tokens differ from the tokenizer's; empty where none do."""
    with staged(folder, weights=False, prefix_space=recipe.prefix_space) as stage:
        file = stage.parent / "vocabulary.gguf"
        arguments = ["convert", str(stage), str(file), "f16", "--vocabulary", *recipe.arguments("vocabulary")]
        try:
            for _line in follow(arguments, "llama.cpp's converter cannot read the tokenizer"):
                pass
            with LlamaModel(file, vocabulary_only=True) as model:
                return compared(tokenizer, model, recipe)
        except BadInput as error:
            return error.cause


def compared(tokenizer: Any, model: LlamaModel, recipe: Recipe) -> str:
    """Where a model's tokens, converted by `recipe`, differ from the tokenizer's; empty where none do."""
    added = tuple(around_added(tokenizer))
    if recipe.prefix_space:
        return first_difference(tokenizer, model, (*PROBES, *added)) or beginning_difference(tokenizer, model)
    # As a rendered conversation begins: the space in front of the first word of a bare text is what differs.
    rendered = (f"{tokenizer.bos_token}{text}" for text in (*PROBES, *added))
    return first_difference(tokenizer, model, rendered)


def _swallows_spaces(folder: Path) -> bool:
    added = read_json_object(folder / "tokenizer.json").get("added_tokens") or []
    return any(each.get("rstrip") for each in added)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
