import pytest

from dimba.options import grpo_table, table
from dimba.options.param import Param
from dimba.wizard.answers import Choice, InvalidAnswer, in_sentence, one_of, parse_number


@pytest.mark.parametrize(
    ("param", "text", "number"),
    [
        (table.BATCH_SIZE, " 8 ", 8),
        (table.MAX_STEPS, "2,000", 2000),
        (table.MAX_LENGTH, str(table.MAX_LENGTH.kind.least), table.MAX_LENGTH.kind.least),  # type: ignore[union-attr]
        (table.EPOCHS, "2.5", 2.5),
        (table.LEARNING_RATE, "2e-4", 2e-4),
    ],
)
def test_a_number_within_its_bounds_is_accepted(param: Param, text: str, number: float):
    assert parse_number(param, text) == number


@pytest.mark.parametrize(
    ("param", "text", "reason", "hint"),
    [
        (table.BATCH_SIZE, "0", "batch size 0 is less than 1", "1 or more"),
        (table.MAX_LENGTH, "7", "max length 7 is less than 8", "8 or more"),
        (grpo_table.NUM_GENERATIONS, "1", "completions per prompt 1 is less than 2", "2 or more"),
        (table.LORA_R, "8.5", "LoRA rank `8.5` is not a whole number", "1 or more"),
        (table.EPOCHS, "2,5", "epochs `2,5` is not a number", "above 0"),
        (table.EPOCHS, "nan", "epochs nan is not above zero", "above 0"),
        (table.LEARNING_RATE, "inf", "learning rate inf is not a finite number", "above 0"),
        (table.LEARNING_RATE, "1e-13", "learning rate 1e-13 is less than 1e-12", "above 0"),
    ],
)
def test_a_number_out_of_its_bounds_is_refused_with_the_bound(param: Param, text: str, reason: str, hint: str):
    with pytest.raises(InvalidAnswer) as caught:
        parse_number(param, text)
    assert caught.value.message == reason
    assert hint in caught.value.hint


def test_a_choice_is_found_by_value_or_short_text_and_a_typing_error_gets_the_nearest():
    choices = [Choice("qlora", "Q-LoRA  adapter on a 4-bit base", "quantised"), Choice("full", "full")]
    assert one_of(choices, " QLORA ", "method") == one_of(choices, "quantised", "method") == "qlora"
    with pytest.raises(InvalidAnswer, match="method `ful` is not known") as caught:
        one_of(choices, "ful", "method")
    assert caught.value.hint == "did you mean `full`?"


@pytest.mark.parametrize(
    ("label", "text"), [("Batch size", "batch size"), ("LoRA rank", "LoRA rank"), ("Which GPUs", "which GPUs")]
)
def test_a_label_keeps_its_names_inside_a_sentence(label: str, text: str):
    assert in_sentence(label) == text
