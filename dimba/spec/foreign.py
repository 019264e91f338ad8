"""YAML files of other tools: their values as text, and the tags that name code. Nothing of them is run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from dimba.common.errors import BadInput
from dimba.spec.yaml12 import MAX_BYTES


@dataclass
class ForeignYaml:
    """A file's value, in which every scalar is text, and its tags: (line, tag, text)."""

    file: Path
    value: Any = None
    tags: list[tuple[int, str, str]] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)  # of the outermost keys

    @classmethod
    def read(cls, file: Path) -> "ForeignYaml":
        """Raises BadInput for a file that is no YAML."""
        try:
            data = file.read_bytes()
            if len(data) > MAX_BYTES:
                raise BadInput("larger than 1 MiB", "give a file of settings", file=file)
            node = YAML(typ="safe", pure=True).compose(data.decode())
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            cause = f"not valid YAML: {error.problem or error.context}"
            raise BadInput(cause, "correct that line, or the one before it", file=file, line=line) from None
        except (OSError, UnicodeDecodeError, YAMLError, RecursionError) as error:
            cause = f"{file} cannot be read as YAML: {str(error).splitlines()[0]}"
            raise BadInput(cause, "give a file of settings in YAML") from None
        found = cls(file)
        if node is not None:
            found.value = found._plain(node, {})
            keys = [key for key, _ in node.value] if isinstance(node, MappingNode) else []
            found.lines = {str(key.value): key.start_mark.line + 1 for key in filter(_is_text, keys)}
        return found

    def _plain(self, node: Node, known: dict[int, Any]) -> Any:
        """The value of a node; an alias is the value of its anchor, also within itself."""
        if id(node) in known:
            return known[id(node)]
        if str(node.tag).startswith("!"):
            self.tags.append((node.start_mark.line + 1, str(node.tag), str(getattr(node, "value", ""))))
        if isinstance(node, ScalarNode):
            return node.value
        if isinstance(node, MappingNode):
            mapping: dict[str, Any] = {}
            known[id(node)] = mapping
            mapping.update({str(key.value): self._plain(value, known) for key, value in node.value if _is_text(key)})
            return mapping
        sequence: list[Any] = []
        known[id(node)] = sequence
        sequence += [self._plain(each, known) for each in node.value]
        return sequence


def _is_text(node: Any) -> bool:
    return isinstance(node, ScalarNode)
