"""The parameters of chat templates."""

from functools import partial

from dimba.options.kinds import Date, JsonObject, OneOf
from dimba.options.param import Param

# Arguments of a chat template that the trainer sets itself.
OWN_ARGUMENTS = (
    *("messages", "conversation", "conversations", "tools", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "return_assistant_tokens_mask", "tokenize", "return_dict", "return_tensors"),
    *("padding", "truncation", "max_length", "tokenizer_kwargs"),
)

_rows = partial(Param, group="rows")

CHAT_TEMPLATE_KWARGS = _rows(
    flags=("--chat-template-kwargs",),
    kind=JsonObject(refused=OWN_ARGUMENTS),
    metavar="JSON",
    help='arguments of the chat template, such as {"enable_thinking": false}; those of a row override them',
)
TEMPLATE_DATE = _rows(
    flags=("--template-date",),
    kind=Date(),
    metavar="DATE",
    help="the date that the chat template shows, such as 2026-11-28 (default: today)",
)
CONTROL_TOKENS = _rows(
    flags=("--control-tokens",),
    kind=OneOf(("text", "keep")),
    default="text",
    help="control tokens that people wrote in a chat: tokenise them as text, or keep them as control tokens",
)
