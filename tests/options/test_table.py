import re

import pytest

from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES
from dimba.options import grpo_table, lora_table, optimiser_table, table, tracking_table
from dimba.options.param import GROUPS, Param, parser_of
from dimba.wizard.questions import QUESTIONS

TABLES = (table, grpo_table, lora_table, optimiser_table, tracking_table)
PARAMS = [each for module in TABLES for each in vars(module).values() if isinstance(each, Param)]


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=lambda each: each.name)
def test_help_of_a_trainer_lists_every_flag_under_its_group(objective: Objective):
    text = parser_of(objective.options, objective.summary).format_help().partition("show this help")[2]
    group_of: dict[str, str] = {}
    group = ""
    for line in text.splitlines():
        group = line.removesuffix(":") if re.fullmatch(r"[a-z].*:", line) else group
        group_of |= dict.fromkeys(re.findall(r"^  (--[a-z0-9-]+)", line), group)
    assert group_of == {each.flag: each.group for each in objective.params.values()}
    assert list(dict.fromkeys(group_of.values())) == [each for each in GROUPS if each in group_of.values()]


@pytest.mark.parametrize("param", [each for each in PARAMS if each.question], ids=lambda each: each.question)
def test_a_parameter_with_a_question_is_asked_under_its_label_and_flag(param: Param):
    asked = {(question.label, question.flag) for question in QUESTIONS}
    assert (param.question, param.flag if param.flags else None) in asked


def test_no_flag_of_the_wizard_is_declared_beside_the_table():
    declared = {flag: each for each in PARAMS for flag in each.flags}
    for question in QUESTIONS:
        if question.flag in declared:
            assert question.label == declared[question.flag].question, question.flag
