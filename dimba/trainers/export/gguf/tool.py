"""llama.cpp's converter and quantiser, each in a process of its own: its code may end a process that it fails in.

`python -m dimba.trainers.export.gguf.tool convert FOLDER FILE TYPE [--pre NAME] [--vocabulary] [--name NAME]` and
`… quantise FILE FILE NUMBER`.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dimba.common.contract import read_json_object
from dimba.trainers.export.gguf.library import bindings, converter
from dimba.trainers.export.gguf.spm import Vocabulary, is_sentencepiece, vocabulary


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(argv)
    if options.command == "convert":
        return _convert(options)
    return _quantise(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="llama.cpp's converter and quantiser.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert")
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("type")
    convert.add_argument("--pre", help="the pre-tokenizer, where the converter does not recognise it")
    convert.add_argument("--vocabulary", action="store_true", help="no weights")
    convert.add_argument("--name", default="model", help="the model's name in the file")
    quantise = commands.add_parser("quantise")
    quantise.add_argument("source", type=Path)
    quantise.add_argument("target", type=Path)
    quantise.add_argument("number", type=int)
    return parser


def _convert(options: argparse.Namespace) -> int:
    folder = converter()
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    script: Any = import_module("convert_hf_to_gguf")
    text_model = import_module("conversion.base").TextModel
    if options.pre:
        text_model.get_vocab_base_pre = lambda *_: options.pre
    if is_sentencepiece(options.source):
        text_model._create_vocab_sentencepiece = _from_tokenizer_json
    elif not (options.source / "tokenizer.model").exists():
        text_model._create_vocab_sentencepiece = _no_file  # it imports sentencepiece before it looks for the file
    _add_ends(import_module("gguf").SpecialVocab, _ends(options.source))
    arguments = ["--outfile", str(options.target), "--outtype", options.type, "--model-name", options.name]
    arguments += ["--vocab-only"] if options.vocabulary else []
    sys.argv = ["convert_hf_to_gguf.py", str(options.source), *arguments]
    script.main()
    return 0


def _ends(folder: Path) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        ends = read_json_object(folder / name).get("eos_token_id")
        if ends is not None:
            return list(ends) if isinstance(ends, list) else [ends]
    return []


def _add_ends(special_vocabulary: Any, ends: Sequence[int]) -> None:
    """The converter writes one end token; llama.cpp also stops at two others, if the file names them."""
    write = special_vocabulary.add_to_gguf

    def write_with_ends(self: Any, writer: Any, quiet: bool = False) -> None:
        write(self, writer, quiet)
        others = [token for token in ends if token != self.special_token_ids.get("eos")]
        for token, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
            add(token)

    special_vocabulary.add_to_gguf = write_with_ends


def _from_tokenizer_json(model: Any) -> Vocabulary:
    return vocabulary(model.dir_model, model.find_hparam(["vocab_size_per_layer_input", "vocab_size"]))


def _no_file(_self: Any) -> None:
    raise FileNotFoundError("the base has no tokenizer.model, which llama.cpp's converter reads")


def _quantise(options: argparse.Namespace) -> int:
    library = bindings()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize = options.number, False
    source, target = str(options.source).encode(), str(options.target).encode()
    return int(library.llama_model_quantize(source, target, parameters))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
