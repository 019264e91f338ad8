"""A tiny chat checkpoint and data set, and the loss and an answer of the tuned model.

`python -m dimba.trainers.tiny make FOLDER` and `… show BASE TUNED DATA`: the demo runs both where the trainer
runs, because they need the training packages.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from dimba.common.errors import Location, UnusableRow
from dimba.trainers.data.chat import encode
from dimba.trainers.data.encoding import IGNORED
from dimba.trainers.data.render import Messages
from dimba.trainers.data.rows import Source
from dimba.trainers.models.saving import apply_umask

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]

COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow", "a tomato": "red",
    "an orange": "orange", "chocolate": "brown", "an elephant": "grey", "a flamingo": "pink", "a plum": "purple",
    "milk": "white",
}  # fmt: skip
ASKING = ("What colour is {}?", "Tell me the colour of {}.", "{} - which colour is it?", "Colour of {}, please.")


def conversations() -> list[dict[str, Any]]:
    """Rows of `messages`: one question in each wording of ASKING about each thing in COLOURS."""
    return [
        {
            "messages": [
                {"role": "user", "content": asking.format(thing)},
                {"role": "assistant", "content": f"The colour of {thing} is {colour}."},
            ]
        }
        for asking in ASKING
        for thing, colour in COLOURS.items()
    ]


def make(folder: Path) -> None:
    """Writes `folder`/base, a Llama of about 0.4 M parameters with random weights, and `folder`/data.jsonl."""
    rows = conversations()
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    make_checkpoint(folder / "base", [message["content"] for row in rows for message in row["messages"]])


_SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}


def make_checkpoint(
    folder: Path,
    texts: list[str],
    *,
    seed: int = 0,
    vocabulary: int = 512,
    digits_apart: bool = False,
    **shape: int | bool,
) -> None:
    """Writes a random Llama to `folder`, with a byte-level BPE tokenizer trained on `texts` and a chat template.

    `shape` overrides values of its configuration.
    """
    tokenizer = make_tokenizer(texts, size=vocabulary, digits_apart=digits_apart)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{**_SHAPE, **shape},
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    apply_umask(folder)


def make_tokenizer(texts: list[str], *, size: int = 512, digits_apart: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `size` tokens, trained on `texts`, with a chat template."""
    inner = Tokenizer(models.BPE())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces]) if digits_apart else pieces
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|pad|>", bos_token="<|begin|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def show(base: str, tuned: str, data: str) -> dict[str, Any]:
    """The mean loss of `data` before and after training (nats per trained token), and an answer to its first prompt."""
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    chats = [list(sample.messages) for _, sample in Source(data).samples()[1] if not isinstance(sample, UnusableRow)]
    model = AutoModelForCausalLM.from_pretrained(tuned)
    before = mean_loss(AutoModelForCausalLM.from_pretrained(base), tokenizer, chats)
    prompt = chats[0][:1]
    return {
        "loss_before": before,
        "loss_after": mean_loss(model, tokenizer, chats),
        "prompt": prompt[0]["content"],
        "answer": _answer(model, tokenizer, prompt),
    }


def mean_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, chats: Sequence[Messages]) -> float:
    """The mean loss in nats per trained token, each chat in a batch of its own."""
    total, count = 0.0, 0
    for chat in chats:
        example = encode(tokenizer, chat, Location("data"))
        ids, labels = torch.tensor(example.input_ids)[None].long(), torch.tensor(example.labels())[None].long()
        trained = int((labels[:, 1:] != IGNORED).sum())
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * trained
        count += trained
    return total / count


def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: Messages) -> str:
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=30, do_sample=False)
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


def main(argv: list[str]) -> int:
    """Runs `make FOLDER` or `show BASE TUNED DATA`; prints one JSON line."""
    command, *paths = argv
    if command == "make":
        make(Path(paths[0]))
        print(json.dumps({"made": paths[0]}))
    else:
        print(json.dumps(show(*paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
