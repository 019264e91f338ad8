"""The same rows give the same tokens, from every format of files and through `datasets`."""

import csv
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimba.common.errors import Location
from dimba.dataset.prompt_examples import prompts_of
from dimba.dataset.samples import Sample
from dimba.dataset.summary import samples_of
from dimba.dataset.values import KeyOrder, plain
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.data.rows import Source

ROWS = 500
TOOLS = (
    "{{ bos_token }}{{ style }}{% if tools %}<|system|>\n{{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for m in messages %}"
    "<|{{ 'user' if m['role'] == 'tool' else m['role'] }}|>\n{{ m['content'] or '' }}{% if m['tool_calls'] %}"
    "{% for c in m['tool_calls'] %}{{ c | tojson }}{% endfor %}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NAMES = ("city", "unit", "day", "limit", "deep")


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> ChatEncoder:
    """The tiny checkpoint with a template that shows tools, calls and an argument."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = TOOLS
    return ChatEncoder(tokenizer)


def text(seed: random.Random) -> str:
    words = (
        "snow",
        "Größe",
        "e\u0301",
        "\ufeff",
        "日本",
        "a\nb",
        "c\r\nd",
        "'q'",
        '"r"',
        "1.0",
        "null",
        "x,y;z",
        "\u2028",
    )
    return " ".join(seed.choice(words) for _ in range(seed.randint(1, 5))) + "."


def tool(seed: random.Random) -> dict[str, Any]:
    named = seed.sample(NAMES, seed.randint(1, 4))
    properties = {name: {"type": "string", **({"maximum": seed.choice((1, 2.5, 3.0))} if seed.random() < 0.5 else {})}
                  for name in named}  # fmt: skip
    parameters = {"type": "object", "properties": properties, "required": named[:1]}
    return {"type": "function", "function": {"name": seed.choice(NAMES), "parameters": parameters}}


def call(seed: random.Random) -> dict[str, Any]:
    values = {"city": text(seed), "unit": None, "day": "2026-11-28", "limit": seed.choice((1, 2.0, 2.5)),
              "deep": {"b": 1, "a": [1.0, None]} if seed.random() < 0.5 else {"a": [2.5]}}  # fmt: skip
    named = seed.sample(NAMES, seed.randint(1, 5))
    return {"type": "function", "function": {"name": "f", "arguments": {name: values[name] for name in named}}}


def with_tools(seed: random.Random) -> dict[str, Any]:
    asked = {"role": "user", "content": text(seed)}
    called = {"role": "assistant", "content": "", "tool_calls": [call(seed) for _ in range(seed.randint(1, 2))]}
    found = {"role": "tool", "name": "f", "content": text(seed)}
    row = {"messages": [asked, called, found, {"role": "assistant", "content": text(seed)}], "id": 7}
    more = {"tools": [tool(seed)], "chat_template_kwargs": {"style": seed.choice(("", "terse"))}}
    return row | {key: value for key, value in more.items() if seed.random() < 0.7}


def rows_of(kind: str) -> list[dict[str, Any]]:
    seed = random.Random(7)

    def one() -> dict[str, Any]:
        if kind == "tools":
            return with_tools(seed)
        if kind in ("messages", "conversations"):
            role, said = ("role", "content") if kind == "messages" else ("from", "value")
            system = [{role: "system", said: text(seed)}] if seed.random() < 0.3 else []
            return {kind: [*system, {role: "user", said: text(seed)}, {role: "assistant", said: text(seed)}]}
        optional = {name: text(seed) for name in ("input", "system") if "/" in kind and seed.random() < 0.5}
        optional.pop("input" if kind != "instruction/output" else "", None)
        return {name: text(seed) for name in kind.split("/")} | optional

    return [one() for _ in range(ROWS)]


def written(rows: list[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """The rows as files of every format."""
    import pyarrow
    from pyarrow import parquet

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(every_column(rows)), folder / "a.parquet")
    with (folder / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, list(every_column(rows)[0]))
        table.writeheader()
        for row in rows:
            table.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items() if v is not None})
    yield from (folder / f"a.{suffix}" for suffix in ("jsonl", "jsonl.gz", "json", "parquet", "csv"))


def every_column(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def samples(found: Any) -> list[Sample]:
    values = [sample for _, sample in samples_of(found, {})[1]]
    assert all(isinstance(each, Sample) for each in values), values
    return values


@pytest.mark.parametrize(
    "kind", ["tools", "messages", "conversations", "prompt/completion", "question/answer", "instruction/output", "text"]
)
def test_the_same_rows_give_the_same_tokens_from_every_format(kind: str, encoder: ChatEncoder, tmp_path: Path) -> None:
    import datasets

    rows = rows_of(kind)
    sources = {path.name: samples(Source(str(path)).rows()) for path in written(rows, tmp_path)}
    table = datasets.Dataset.from_list(every_column(rows))
    sources["datasets"] = samples((Location("d", row=n), dict(row)) for n, row in enumerate(table, 1))
    first, *others = sources.values()
    assert len(first) == ROWS
    assert all(other == first for other in others), [name for name in sources if sources[name] != first]
    rendered = [[encoder.render(each, Location("d")) for each in values[:40]] for values in sources.values()]
    tokens = [np.concatenate([each.input_ids for each in encoder.encode_batch(values)]) for values in rendered]
    assert all(np.array_equal(tokens[0], each) for each in tokens)
    if kind == "tools":
        assert not any("null" in row.text and "None" in row.text for row in rendered[0])


def test_prompts_and_pairs_are_equal_from_every_format(tmp_path: Path) -> None:
    seed = random.Random(3)
    rows = []
    for n in range(ROWS):
        chosen, rejected = ([{"role": "assistant", "content": f"{n} {k}", "tool_calls": [call(seed)]}] for k in "ab")
        prompt = [{"role": "user", "content": text(seed)}]
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, **with_tools(seed), "answer": n / 2})
        del rows[-1]["messages"]
    found = [
        [(each.messages, each.chosen, each.rejected, each.tools, each.arguments) for _, each in read[1]]
        for read in (prompts_of(Source(str(path)).rows(), {}) for path in written(rows, tmp_path))
    ]
    assert all(each == found[0] for each in found)


def test_an_argument_that_is_null_is_written_as_json_text() -> None:
    def arguments(given: Any) -> Any:
        turn = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": given}}]}
        rows = iter([(Location("d"), {"messages": [{"role": "user", "content": "Q"}, turn]})])
        return samples(rows)[0].messages[1]["tool_calls"][0]["function"]["arguments"]

    assert arguments({"city": None, "n": [None, 1.0]}) == {"n": [None, 1]}
    assert arguments('{"city": null}') == {"city": None}


def test_a_value_is_plain_json() -> None:
    import datetime
    import decimal

    value = {"a": 1.0, "b": None, "c": [1.5, None, {"d": None}], "e": [("k", None), ("l", 2.0)], "f": True}
    assert plain(value) == {"a": 1, "c": [1.5, None, {}], "e": {"l": 2}, "f": True}
    assert plain([datetime.date(2026, 11, 28), decimal.Decimal("2.50"), 1e300]) == ["2026-11-28", 2.5, 1e300]
    order = KeyOrder()
    order.apply([{"b": 1}, {"c": {"y": 1, "x": 1}, "a": 1}])
    assert list(order.apply({"a": 1, "b": 2, "c": 3})) == ["b", "c", "a"]
    assert list(order.apply({"c": {"x": 1, "y": 1}})["c"]) == ["y", "x"]
