"""Chats rendered by a checkpoint's chat template exactly as transformers renders them, without importing it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput


def render_chat(checkpoint: Path, messages: list[dict[str, str]], default: str | None = None) -> str | None:
    """The chat as the trainer tokenises it; without a template in the checkpoint by `default`, or None.

    Raises:
        BadInput: the checkpoint's files cannot be read, or its template is broken or refuses this chat.
    """
    config = _json(checkpoint, "tokenizer_config.json")
    template = _template(checkpoint, config) or default
    if not template:
        return None
    variables = {**_special_tokens(checkpoint, config), "messages": messages, "tools": None, "documents": None}
    try:
        rendered: str = _environment().from_string(template).render(**variables, add_generation_prompt=False)
    except Exception as error:  # a template is a program and can raise anything
        raise _refusal(checkpoint, error) from error
    return rendered


def _refusal(checkpoint: Path, error: Exception) -> BadInput:
    from jinja2 import TemplateSyntaxError

    if isinstance(error, TemplateSyntaxError):
        message = f"the chat template of {checkpoint} is broken: {error.message} (line {error.lineno})"
        return BadInput(message, "fix its chat_template.jinja, or copy the checkpoint again")
    message = f"the chat template of {checkpoint} refuses this chat: {str(error) or type(error).__name__}"
    return BadInput(message, "correct the chat, or give the checkpoint a chat template that allows it")


def _json(checkpoint: Path, name: str) -> dict[str, Any]:
    """The file's object; empty if there is no such file."""
    try:
        value = json.loads(_text(checkpoint / name) or "{}")
    except ValueError as error:
        raise BadInput(f"{checkpoint / name} is broken: {error}", "copy the checkpoint again") from error
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "fix its permissions, or copy it again") from error


def _template(checkpoint: Path, config: dict[str, Any]) -> str | None:
    """The text of chat_template.jinja, else the template (or the one named `default`) of the configuration."""
    found = _text(checkpoint / "chat_template.jinja")
    found = config.get("chat_template") if found is None else found
    if not isinstance(found, list) or not found:
        return found if isinstance(found, str) else None
    named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    default = named.get("default")
    if not isinstance(default, str):
        names = ", ".join(map(str, named))
        raise BadInput(f"{checkpoint} has no default chat template, only {names}", "name one of them `default`")
    return default


def _special_tokens(checkpoint: Path, config: dict[str, Any]) -> dict[str, str]:
    """Name → text of the tokens that templates can use, such as `bos_token`."""
    # As in transformers, the older layout counts only if the configuration does not list the added tokens itself.
    older = {} if "added_tokens_decoder" in config else _json(checkpoint, "special_tokens_map.json")
    both = {**config, **older}
    named = both.get("extra_special_tokens")
    found = {name: token for name, token in both.items() if name.endswith("_token")}
    found |= named if isinstance(named, dict) else {}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _environment() -> Any:
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    extensions = [_generation_tag(), "jinja2.ext.loopcontrols"]
    # No autoescape: the text is for a model, not for a browser.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    names = {"raise_exception": raise_exception, "strftime_now": lambda form: datetime.now().strftime(form)}
    environment.globals.update(names, dict=_Dict(), namespace=_namespace())
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """Replaces `dict` in templates: the class itself has attributes that lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _namespace() -> type:
    """A `namespace` for templates that refuses underscored names, through which a template would reach Python's own."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class Plain(Namespace):  # type: ignore[misc]  # mypy does not follow jinja2
        def __init__(*args: Any, **kwargs: Any) -> None:
            Namespace.__init__(args[0])
            for name, value in dict(*args[1:], **kwargs).items():
                args[0][name] = value

        def __setitem__(self, name: str, value: Any) -> None:
            if str(name).startswith("_"):
                raise SecurityError(f"a namespace may not have `{name}`")
            super().__setitem__(name, value)

    return Plain


def _generation_tag() -> type:
    """An extension that renders the body of `{% generation %}`, which marks assistant text for loss masks."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):  # type: ignore[misc]
        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation
