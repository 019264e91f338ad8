"""Chats render as transformers renders them, and a template cannot leave its sandbox."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput
from dimba.host.chat_template import render_chat

ASK = {"role": "user", "content": "  What is <b>1 + 1</b>? \n"}
REPLY = {"role": "assistant", "content": "It is “2”."}
SYSTEM = {"role": "system", "content": "Answer briefly."}
CHATS = {
    "one turn": [ASK, REPLY],
    "system": [SYSTEM, ASK, REPLY],
    "several turns": [SYSTEM, ASK, REPLY, {"role": "user", "content": "And 2?"}, REPLY],
    "only a question": [ASK],
    "thinking": [ASK, {"role": "assistant", "content": "<think>\nwell\n</think>\n\n2"}],
    "two questions": [ASK, ASK],
    "the assistant first": [REPLY, ASK],
}
_TRL = importlib.util.find_spec("trl")
TEMPLATES = sorted((Path(_TRL.origin).parent / "chat_templates").glob("*.jinja")) if _TRL and _TRL.origin else []


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "[UNK]"}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, **named, image_token="<image>", extra_special_tokens={"think_token": "<think>"}
    )
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder)


def outcome(render: Any) -> str:
    try:
        return f"text: {render()}"
    except Exception:
        return "refused"


def checkpoint(folder: Path, template: object = None, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    config = config if template is None else {**config, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_trl_ships_templates_to_compare_with():
    pytest.importorskip("trl")
    assert len(TEMPLATES) > 20


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_chat_renders_as_transformers_renders_it(
    template: Path, tokenizer_folder: Path, tokenizer: Any, tmp_path: Path
):
    folder = tmp_path / "base"
    shutil.copytree(tokenizer_folder, folder)
    shutil.copy(template, folder / "chat_template.jinja")
    text = template.read_text(encoding="utf-8")
    for name, chat in CHATS.items():
        theirs = outcome(lambda chat=chat: tokenizer.apply_chat_template(chat, chat_template=text, tokenize=False))
        assert outcome(lambda chat=chat: render_chat(folder, chat)) == theirs, name


TOKENS = "|".join(f"{{{{ {name}_token }}}}" for name in ("bos", "eos", "pad", "unk", "image", "think", "sep"))


@pytest.mark.parametrize(
    "template",
    [
        TOKENS,
        [{"name": "default", "template": "default: " + TOKENS}, {"name": "tool_use", "template": "tools"}],
        "{{ messages | tojson }}{{ {'b': 1, 'a': '<é>'} | tojson(indent=2, sort_keys=true) }}{{ tools is none }}",
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
        "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}",
        "{% set y = 1 %}{% generation %}{% set y = 2 %}{{ y }}{% endgeneration %}{{ y }}{{ dict(a=1).a }}",
        "{{ strftime_now('%Y') }}{{ dict.fromkeys(['a']) }}{{ add_generation_prompt }}{{ documents }}{{ nothing }}",
        "  {% if true %}  \n  kept\n  {%- endif %}\n\n{# gone #}\n<&>{{ '<&>' }}\n",
    ],
)
def test_a_template_in_the_configuration_renders_as_transformers_renders_it(
    template: Any, tokenizer_folder: Path, tmp_path: Path
):
    from transformers import AutoTokenizer

    folder = tmp_path / "base"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["unk_token"] = {"__type": "AddedToken", "content": "[UNK]", "special": True}
    checkpoint(folder, template, **config)
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(CHATS["several turns"], tokenize=False)
    assert render_chat(folder, CHATS["several turns"]) == theirs


def test_the_older_special_tokens_map_counts_where_it_counts_for_transformers(tokenizer_folder: Path, tmp_path: Path):
    from transformers import AutoTokenizer

    for listed in ({}, {"added_tokens_decoder": {"0": {"content": "[UNK]", "special": True}}}):
        folder = tmp_path / f"base{len(listed)}"
        shutil.copytree(tokenizer_folder, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        checkpoint(folder, TOKENS, **config, **listed)
        older = {"eos_token": {"content": "<older>", "lstrip": False}, "sep_token": "<sep>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(older), encoding="utf-8")
        theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template([ASK], tokenize=False)
        assert render_chat(folder, [ASK]) == theirs


def test_a_checkpoint_without_a_template_renders_nothing(tmp_path: Path):
    assert render_chat(tmp_path / "nowhere", [ASK]) is None
    assert render_chat(checkpoint(tmp_path / "base"), [ASK]) is None
    assert render_chat(checkpoint(tmp_path / "base", ""), [ASK]) is None
    assert render_chat(checkpoint(tmp_path / "base", []), [ASK]) is None
    (tmp_path / "base" / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    assert render_chat(tmp_path / "base", [ASK]) is None


def test_the_template_file_has_precedence_over_the_configuration(tmp_path: Path):
    folder = checkpoint(tmp_path / "base", "configuration")
    assert render_chat(folder, [ASK]) == "configuration"
    (folder / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert render_chat(folder, [ASK]) == "file"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{% if %}", "broken"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[7].content.x }}", "no element 7"),
        ("{{ 1 / 0 }}", "division by zero"),
        ([{"name": "tool_use", "template": "x"}], "no default chat template, only tool_use"),
    ],
)
def test_a_refusal_names_the_checkpoint_and_the_templates_error(template: object, complaint: str, tmp_path: Path):
    folder = checkpoint(tmp_path / "base", template)
    with pytest.raises(BadInput) as caught:
        render_chat(folder, [SYSTEM, ASK])
    assert complaint in caught.value.message and str(folder) in caught.value.message and caught.value.hint


def test_a_broken_file_is_refused_by_name(tmp_path: Path):
    folder = checkpoint(tmp_path / "base")
    (folder / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match=r"tokenizer_config\.json is broken"):
        render_chat(folder, [ASK])
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BadInput, match=r"chat_template\.jinja cannot be read"):
        render_chat(folder, [ASK])


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__ }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ strftime_now.__globals__.os }}",
        "{{ dict.__class__.__init__.__globals__ }}",
        "{{ dict.mro() }}",
        "{{ namespace.mro() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n.__call__ = 1 %}",
        "{{ ('{0.__class__.__mro__}').format('') }}",
        "{{ messages | map(attribute='__class__') | list | first | attr('__mro__') }}{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% include '/etc/passwd' %}",
        "{{ range(1000000000) | list }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template: str, tmp_path: Path):
    chat = [dict(ASK)]
    with pytest.raises(BadInput):
        render_chat(checkpoint(tmp_path / "base", template), chat)
    assert chat == [ASK]
