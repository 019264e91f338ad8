"""Writes a spec as YAML that is easy to read and edit."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

_LINE, _COMMENT_COLUMN = 80, 40
# A text in every version of YAML; kubectl's reads `no` and `y` as booleans.
_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[A-Za-z/][\w./-]*", re.IGNORECASE)
_LINE_BREAKS = re.compile("[\x85\u2028\u2029]")
SCHEMA_LINE = "# yaml-language-server: $schema={}\n"


def spec_yaml(values: dict[str, Any], schema: str, comments: Mapping[str, str] | None = None) -> str:
    """The YAML of `values` (the keys of a job spec), with the editor's schema line.

    Short sections take one line, long ones a line per key; `comments` stand beside `key` or `section.key`.
    """
    yaml = YAML()
    yaml.width = 4096  # a long path stays on its line
    yaml.representer.add_representer(float, _float)
    yaml.representer.add_representer(type(None), _null)
    top = CommentedMap((key, _section(key, value)) for key, value in values.items())
    for name, comment in (comments or {}).items():
        section, _, key = name.rpartition(".")
        place = top.get(section) if section else top
        if isinstance(place, CommentedMap) and (key in place) and not place.fa.flow_style():
            place.yaml_add_eol_comment(comment, key, column=_COMMENT_COLUMN)
    stream = io.StringIO()
    yaml.dump(top, stream)
    return SCHEMA_LINE.format(schema) + stream.getvalue()


def recipe_yaml(values: dict[str, Any], heading: str, block: str) -> str:
    """The YAML of a spec with a recipe under the key `block`, one key a line there, and `heading` as comments above."""
    spec = {key: value for key, value in values.items() if key != block}
    lines = "".join(f"# {line}\n" for line in heading.splitlines())
    yaml = YAML()
    yaml.width = 4096
    yaml.representer.add_representer(type(None), _null)
    stream = io.StringIO()
    yaml.dump({block: _readable(values[block])}, stream)
    return lines + spec_yaml(spec, "").partition("\n")[2] + "\n" + stream.getvalue()


def _readable(value: Any) -> Any:
    """The value with texts of several lines as blocks of lines, where YAML keeps them as they are."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if isinstance(value, str) and _LINE_BREAKS.search(value):
        return DoubleQuotedScalarString(value)  # ruamel would break a plain text there
    is_block = isinstance(value, str) and "\n" in value and not re.search(r"[ \t\r]\n|[^\n -~\u00a0-\ud7ff]|^\s", value)
    return LiteralScalarString(value) if is_block else value


def _null(representer: Any, _value: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _float(representer: Any, value: float) -> Any:
    """Writes `2.0e-4`, the usual form of learning rates, rather than Python's 0.0002."""
    text = repr(value)
    if 0 < abs(value) < 1e-2:
        digits, _, exponent = f"{value:e}".partition("e")
        short = f"{float(digits):.10g}"
        text = f"{short if '.' in short else short + '.0'}e{int(exponent)}"
        text = text if float(text) == value else repr(value)
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


def _section(key: str, value: Any) -> Any:
    if isinstance(value, dict) and len(f"{key}: {value}") > _LINE:
        return CommentedMap((name, _flow(item)) for name, item in value.items())
    return _flow(value)


def _flow(value: Any) -> Any:
    if isinstance(value, dict):
        section = CommentedMap((key, _flow(item)) for key, item in value.items())
        section.fa.set_flow_style()
        return section
    if isinstance(value, list):
        sequence = CommentedSeq(_flow(item) for item in value)
        sequence.fa.set_flow_style()
        return sequence
    return value


def documents_yaml(documents: Sequence[dict[str, Any]]) -> str:
    """The YAML of several documents, with the same meaning in every version of YAML."""
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump_all([_quoted(each) for each in documents], stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not _PLAIN.fullmatch(value) else value
