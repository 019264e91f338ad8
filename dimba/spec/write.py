"""A spec as a file that is pleasant to read and edit."""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

SCHEMA_LINE = "# yaml-language-server: $schema={}\n"


def spec_yaml(values: dict[str, Any], schema: str) -> str:
    """YAML of `values` (the keys of a job spec), sections in one line each, with the editor's schema line."""
    yaml = YAML()
    yaml.width = 120
    top = CommentedMap()
    for key, value in values.items():
        top[key] = _flow(value)
    stream = io.StringIO()
    yaml.dump(top, stream)
    return SCHEMA_LINE.format(schema) + stream.getvalue()


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
