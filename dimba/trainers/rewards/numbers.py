"""The final number of a text, exactly. Time grows with the text's length and no faster, whatever is in it."""

import re
from fractions import Fraction
from typing import NamedTuple

_LONGEST = 200  # characters of one number; what is longer is none
_HIGHEST = 300  # its exponent
_ANSWER = 1_000  # characters of a text that is a number and nothing else

# Whole runs of digits or nothing, so that no text makes this slow. Possessive quantifiers would say the same, but loop
# for ever in Python before 3.11.5.
_RUN = r"[0-9]+(?![0-9])"
_NUMBER = re.compile(
    rf"""(?<!\^)(?<!\^\{{)
    (?:(?<![\w)\]}}.%])(?P<sign>[-+]))? [$€£¥]? (?P<inner>(?<=[$€£¥])-)?
    (?<![^\W_])(?<![^\W_]_)(?<![0-9]\.)
    (?:(?<!/)(?:(?P<whole>{_RUN})[ ])? (?P<top>{_RUN}(?:\.{_RUN})?)[ ]?/[ ]?(?P<bottom>{_RUN}(?:\.{_RUN}|(?!\.[0-9])))
      (?![/^])
      |(?P<digits>{_RUN}(?:,{_RUN})*(?:\.{_RUN})*|(?<!\.)\.{_RUN})(?:[eE](?P<exponent>[-+]?{_RUN}))?)
    (?P<percent>[ ]?(?:%|per[ ]?cent\b))?""",
    re.VERBOSE,
)
_DIGITS = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")
_UNIT = re.compile(
    r"\s*(?:[°²³$€£¥]|[^\W\d_][^\W\d_/.°'-]{0,20}(?:[ /][^\W\d_/.°'-]{1,20}){0,2}(?:\^\{?[23]\}?|[²³])?)?\s*[.!]?"
)
_FRACTION = re.compile(r"\\[dt]?frac\s{0,9}(?:\{([^{}\\]{1,60})\}|([0-9]))\s{0,9}(?:\{([^{}\\]{1,60})\}|([0-9]))")
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s{0,3}\{([^{}]{0,200})\}")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\,|[\u2009\u202f])(?=[0-9]{3})")
_SPACES = re.compile(r"\\[,;: !]|~|\\quad|\\left|\\right|[\u00a0\u2009\u202f]")
_VARIABLE = re.compile(r"[a-zA-Z]\s{0,9}=")
_DASHES = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"))
_MARK = "####"


class Number(NamedTuple):
    """A value, and whether a percent sign stood behind it: that of 50 % is 1/2."""

    value: Fraction
    percent: bool = False

    def equals(self, other: "Number") -> bool:
        """Whether both say the same; where only one side has a percent sign, 50 % is 50 too."""
        if self.value == other.value:
            return True
        return self.percent != other.percent and self._shown() == other._shown()

    def _shown(self) -> Fraction:
        return self.value * 100 if self.percent else self.value


def final_number(text: str) -> Number | None:
    """That of the last box, else of what follows the last `####`, else the last of the text."""
    box = last_box(text)
    if box is not None:
        return whole_number(box)
    _, mark, tail = text.rpartition(_MARK)
    if not mark:
        return _last(text)
    # A model that did not stop goes on after its answer's line.
    return whole_number(tail.strip()[: _ANSWER + 1].split("\n", 1)[0]) or _last(tail)


def clear_answer(text: str) -> bool:
    """Whether the final number is clearly what is asked for: boxed, behind `####`, or all there is."""
    if last_box(text) is not None or _MARK in text:
        return final_number(text) is not None
    return whole_number(text) is not None


def whole_number(text: str) -> Number | None:
    r"""The number that the text is, units behind it aside: `72 km` is one, `\sqrt{2}` and `2^{10}` are not."""
    if len(text) > _ANSWER:
        return None
    plain = _plain(text).strip("* \t\r\n")
    variable = _VARIABLE.match(plain)
    plain = plain[variable.end() :].strip() if variable else plain
    match = _NUMBER.match(plain)
    return _value(match) if match and _UNIT.fullmatch(plain.rstrip("$"), match.end()) else None


def last_box(text: str) -> str | None:
    r"""What is in the last `\boxed{…}`, whose braces nest; None where it does not close."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :].lstrip()
    return _braced(rest) if rest.startswith("{") else next(iter(rest.split("$", 1)[0].split(None, 1)), None)


def _braced(text: str) -> str | None:
    depth = 0
    for brace in re.finditer(r"\\?[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[1 : brace.start()]
    return None


def _last(text: str) -> Number | None:
    found = list(_NUMBER.finditer(_plain(text)))
    return next((value for match in reversed(found) if (value := _value(match))), None)


def _plain(text: str) -> str:
    text = _THOUSANDS.sub("", text.translate(_DASHES))
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    return _FRACTION.sub(_slash, _SPACES.sub(" ", _WORDS.sub(r" \1 ", text)))


def _slash(match: re.Match[str]) -> str:
    top, bottom = (match[1] or match[2]).strip(), (match[3] or match[4]).strip()
    sign, digits = ("-", top[1:].strip()) if top.startswith("-") else ("", top)
    if not (digits.isdecimal() and bottom.isdecimal()):
        return match[0]
    mixed = match.start() and match.string[match.start() - 1].isdecimal()
    return f"{' ' if mixed or sign else ''}{sign}{digits}/{bottom}"


def _value(match: re.Match[str]) -> Number | None:
    if len(match[0]) > _LONGEST:
        return None
    size = _fraction(match) if match["digits"] is None else _decimal(match["digits"], match["exponent"])
    if size is None:
        return None
    negative = match["sign"] == "-" or match["inner"] is not None
    percent = match["percent"] is not None
    return Number((-size if negative else size) / (100 if percent else 1), percent)


def _fraction(match: re.Match[str]) -> Fraction | None:
    if not Fraction(match["bottom"]):
        return None
    return Fraction(match["whole"] or 0) + Fraction(match["top"]) / Fraction(match["bottom"])


def _decimal(digits: str, exponent: str | None) -> Fraction | None:
    if not _DIGITS.fullmatch(digits):
        # `1,2,3` are three numbers, `1.2.3` is none.
        digits = digits.rpartition(",")[2] if "," in digits else ""
    if not digits or digits.count(".") > 1 or abs(int(exponent or 0)) > _HIGHEST:
        return None
    return Fraction(digits.replace(",", "")) * Fraction(10) ** int(exponent or 0)
