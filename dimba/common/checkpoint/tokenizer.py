"""A tokenizer in the format of its training library, which transformers reads only with that library."""

import re
from collections.abc import Callable
from pathlib import Path

from dimba.common.checkpoint.refusal import Refusal
from dimba.common.contract import read_json_object

_READ_AS_THEY_ARE = ("tokenizer.json", "vocab.json", "vocab.txt")
_TRAINED = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
_SENTENCEPIECE, _TIKTOKEN = ("sentencepiece", "google.protobuf"), ("tiktoken",)
TOKENIZER_PACKAGES = (*_SENTENCEPIECE, *_TIKTOKEN)
_VOCABULARY = re.compile(
    r"tokenizer\.json|(vocab|merges|tekken|source|target).*|.*\.(model|tiktoken|spm|bpe|vocab|txt)"
)
_WITHOUT_VOCABULARY = re.compile(r"ByT5|Canine|Perceiver")  # of bytes or code points
_OF_ANY_FAMILY = ("PreTrainedTokenizerFast", "TokenizersBackend")  # they read tokenizer.json alone
_COPY = "copy tokenizer.json of the same checkpoint there"
_MARK = b"\n"  # the first byte of SentencePiece's files; tiktoken's are lines of text


def tokenizer_file(folder: Path) -> Path | None:
    """The only tokenizer's file, if transformers has to convert it."""
    if any((folder / name).exists() for name in _READ_AS_THEY_ARE):
        return None
    return next((folder / name for name in _TRAINED if (folder / name).exists()), None)


def vocabulary_refusal(folder: Path) -> Refusal | None:
    """The refusal of a tokenizer whose class reads a vocabulary that is not in `folder`."""
    config = read_json_object(folder / "tokenizer_config.json")
    name = str(config.get("tokenizer_class") or "")
    if not name or "auto_map" in config or _WITHOUT_VOCABULARY.match(name) or (folder / "tokenizer.json").exists():
        return None
    if name in _OF_ANY_FAMILY:
        return Refusal(f"has no tokenizer.json, which the `tokenizer_class` {name} reads", _COPY)
    if any(_VOCABULARY.fullmatch(file.name) for file in folder.iterdir()):
        return None
    return Refusal(f"has no vocabulary for its `tokenizer_class` {name}", _COPY)


def tokenizer_needs(folder: Path) -> tuple[str, ...]:
    """The packages that the tokenizer in `folder` needs; empty for tokenizer.json."""
    file = tokenizer_file(folder)
    if file is None:
        return ()
    with file.open("rb") as handle:
        return _SENTENCEPIECE if handle.read(1) == _MARK else _TIKTOKEN


def tokenizer_refusal(
    folder: str | Path, needs: tuple[str, ...], is_installed: Callable[[str], bool]
) -> Refusal | None:
    """The refusal of a tokenizer whose packages the job lacks."""
    if all(map(is_installed, needs)):
        return None
    names = [name.removeprefix("google.") for name in needs]
    problem = f"has no tokenizer.json, and its tokenizer needs {' and '.join(names)}: not installed for the job"
    code = f"from transformers import AutoTokenizer as T; T.from_pretrained('{folder}').save_pretrained('{folder}')"
    return Refusal(problem, f'`pip install {" ".join(names)} && python -c "{code}"` writes tokenizer.json, once')
