"""Strict YAML 1.2 with the line of every key: no aliases, no duplicate keys, no tags, no surprises."""

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dimba.common.errors import BadInput

MAX_BYTES = 1 << 20
_DEEPEST = 50  # nested collections
Key = tuple[str | int, ...]
_CORE = "tag:yaml.org,2002:"
# Paths, flags and variables cannot contain these.
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
_BROKEN = "holds a NUL, or half a character: write plain text"
_MOST_DIGITS = 400
_SCALARS = {"int", "float", "bool", "null"}


class Document:
    """A parsed document: its value, the line of every key (0 for the command line's), and its mistakes as YAML."""

    def __init__(self, data: bytes) -> None:
        self.lines: dict[Key, int] = {(): 1}
        self.problems: list[BadInput] = []
        self._yaml = YAML(typ="safe", pure=True)
        node = self._compose(data)
        self.value: Any = None if node is None else self._value(node, ())

    def _compose(self, data: bytes) -> Node | None:
        try:
            return self._composed(data)
        except BadInput as problem:
            self.problems.append(problem)
            return None

    def _composed(self, data: bytes) -> Node:
        if len(data) > MAX_BYTES:
            raise BadInput(f"larger than 1 MiB ({len(data):,} bytes); a job spec is a page of text", line=1)
        try:
            text = data.decode("utf-8-sig")
            depth = 0
            # Events first: refuses aliases before they expand, and deep nesting before composing it takes minutes.
            for event in self._yaml.parse(text):
                line = event.start_mark.line + 1
                if isinstance(event, AliasEvent):
                    raise BadInput(f"alias `*{event.anchor}` is refused: write it out", line=line)
                depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
                if depth > _DEEPEST:
                    raise BadInput("nested too deeply", line=line)
            node: Node = self._yaml.compose(text)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise BadInput("not UTF-8: save the file as UTF-8", line=line) from None
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            cause = f"not valid YAML: {error.problem or error.context}"
            cause += "; indent with spaces" if "\\t" in cause else ""
            raise BadInput(cause, line=mark.line + 1 if mark else 1) from None
        except YAMLError as error:
            raise BadInput(f"not valid YAML: {str(error).splitlines()[0]}", line=1) from None
        except RecursionError:
            raise BadInput("not valid YAML: nested too deeply", line=1) from None
        return node

    def _fail(self, line: int, cause: str, key: Key = ()) -> None:
        self.problems.append(BadInput(cause, key=key_path(key), line=line))

    def _value(self, node: Node, key: Key) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(key, line)
        if isinstance(node, MappingNode):
            return self._mapping(node, key)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*key, n)) for n, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _mapping(self, node: MappingNode, key: Key) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            name = str(name_node.value) if isinstance(name_node, ScalarNode) else "?"
            if _UNUSABLE.search(name):
                self._fail(line, f"a key {_BROKEN}", key)
                continue
            here = (*key, name)
            if name in result:
                self._fail(line, f"given twice; the first is on line {self.lines[here]}", here)
                continue
            self.lines[here] = line
            result[name] = self._value(value_node, here)
        return result

    def _scalar(self, node: Node, key: Key) -> Any:
        kind = str(node.tag).removeprefix(_CORE)
        if str(node.tag).startswith("!") or kind.startswith("python/"):
            self._fail(node.start_mark.line + 1, f"tag `{node.tag}` is refused: write a plain value", key)
            return None
        if _UNUSABLE.search(node.value):
            self._fail(node.start_mark.line + 1, _BROKEN, key)
            return None
        if kind not in _SCALARS:
            return node.value
        if len(node.value) > _MOST_DIGITS:
            return node.value  # longer than any meant number, and than Python converts
        try:
            return self._yaml.constructor.construct_object(node)
        except (ValueError, YAMLError):
            return node.value


def key_path(key: Key) -> str:
    """`('lora', 'r')` as `lora.r`; list positions as `[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def flow_items(text: str) -> list[tuple[str, Any]]:
    """The items of `a, "b, c", [d, e]`, each as it is written and as a value; raises BadInput."""
    listed = f"[{text}]"
    document = Document(listed.encode(errors="surrogatepass"))
    if document.problems:
        raise document.problems[0]
    node = YAML(typ="safe", pure=True).compose(listed)
    marks = [(item.start_mark.index, item.end_mark.index) for item in node.value]
    return list(zip((listed[start:end].strip() for start, end in marks), document.value, strict=True))
