"""Pydantic fields from the table of parameters."""

from typing import Any

from pydantic import Field

from dimba.options.kinds import Integer, Number
from dimba.options.param import Param


def bounds(param: Param) -> Any:
    """The bounds of a parameter, as a type's annotation."""
    kind = param.kind
    if isinstance(kind, Integer):
        return Field(ge=kind.least, le=kind.most)
    if isinstance(kind, Number):
        return Field(gt=kind.above, ge=kind.least, le=kind.most, allow_inf_nan=False)
    return Field()


def declared(param: Param, **changes: Any) -> Any:
    """The default and the description of a parameter for a model's field; `changes` override them."""
    return Field(**{"default": param.default, "description": param.help, **changes})
