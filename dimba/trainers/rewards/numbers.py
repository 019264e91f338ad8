"""The final number of a text, as an exact fraction, in time linear in the text's length."""

import re
from fractions import Fraction
from typing import NamedTuple

_LONGEST = 200  # characters of a number; a longer one does not count
_HIGHEST = 300  # exponent of a number
_ANSWER = 1_000  # characters of a text that is one number

_LETTER = (
    r"A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u052f"  # of scripts with spaces between words: x2 is a name, 是2 is 2
)

# Matches complete runs of digits only, so that no text makes this slow. Possessive quantifiers would do the same, but
# loop forever in Python before 3.11.5.
_RUN = r"[0-9]+(?![0-9])"
_NUMBER = re.compile(
    rf"""(?<!\^)(?<!\^\{{)
    (?:(?<![0-9{_LETTER}_)\]}}.%])(?P<sign>[-+]))? [$€£¥]? (?P<inner>(?<=[$€£¥])-)?
    (?<![0-9{_LETTER}])(?<![0-9{_LETTER}]_)(?<![0-9]\.)
    (?:(?<!/)(?:(?P<whole>{_RUN})[ ])? (?P<top>{_RUN}(?:\.{_RUN})?)[ ]?/[ ]?(?P<bottom>{_RUN}(?:\.{_RUN}|(?!\.[0-9])))
      (?![/^])
      |(?P<digits>{_RUN}(?:[.,]{_RUN})*|(?<!\.)\.{_RUN})(?:[eE](?P<exponent>[-+]?{_RUN}))?)
    (?P<percent>[ ]?(?:%|per[ ]?cent\b))?""",
    re.VERBOSE,
)
_DIGITS = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]+)?")
_UNIT = re.compile(
    r"\s*(?:[°$€£¥]|[^\W\d_][^\W\d_/.°'-]{0,20}(?:[ /][^\W\d_/.°'-]{1,20}){0,2}(?:\^\{?[23]\}?|[²³])?)?\s*[.!。]?"
)

# A number is a part of something larger beside an operator, a group of digits or a factor.
_NEAR = 40  # characters on either side that are examined
_COMMANDS = r"\\(?:times|cdot|div|pm|mp|sqrt|over|ast|pi|d?frac|binom)"
_BEFORE_PART = re.compile(
    rf"""(?:[0-9][.,:'’_]|[0-9][ \t]+:[ \t]+|[+/^×÷·⋅±∓√{{][ \t]*|-|(?<!\n)-[ \t]+
    |[0-9)\]}}A-Za-z][ \t]+\*{{1,2}}[ \t]+|[0-9)\]}}]\*{{1,2}}|(?<![A-Za-z])[A-Za-z]\*{{1,2}}
    |[0-9)][ \t]*[xX][ \t]+|{_COMMANDS}[ \t]*|(?:-[ \t]*|[A-Za-z0-9)])\()\Z""",
    re.VERBOSE,
)
_AFTER_PART = re.compile(
    rf"""[_:'’][0-9]|[ \t]*(?:\^|[²³¹¼-¾\u2070-\u209f\u2150-\u215f\u2189‰√π]|{_COMMANDS}|[xyz](?![A-Za-z])
    |[+×÷·⋅±][ \t]*[\w(\\]|/(?![ \t]?\w\w))|\*[A-Za-z(]|[ \t]+\*[ \t]+[\w(]
    |[abcefijknopqruvwBDEGHIKMOPQRSTUXYZ](?![A-Za-z])|[ \t]?[十百千万萬亿億兆]
    |(?i:[ \t-]*(?:hundred|thousand|dozen|million|milliard|billion|trillion|tausend|lakh|crore|mio|mrd|bn\b|mn\b))""",
    re.VERBOSE,
)
_IN_LIST = re.compile(r"[0-9][ \t]*[,;][ \t]*\Z")
_BEFORE_GROUP = re.compile(r"(?<![0-9])[0-9]{1,3}[ ]\Z")
_GROUP = re.compile(r"[0-9]{3}(?![0-9])")
_AFTER_NUMBER = re.compile(r"[0-9)][ \t]+\Z")

_FRACTION = re.compile(r"\\[dtc]?frac\s{0,9}(?:\{([^{}\\]{1,60})\}|([0-9]))\s{0,9}(?:\{([^{}\\]{1,60})\}|([0-9]))")
_PART = re.compile(r"\s*(-?)\s*([0-9]+(?:\.[0-9]+)?)\s*")
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|underline|textit|mathit)\s{0,3}\{([^{}]{0,200})\}")
_THOUSANDS = re.compile(r"(?<=[0-9])(?<![0-9]{4})(?:\{,\}|,\\!|\\,|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
_DEGREES = re.compile(r"\^\{?\\circ\}?")
_SPACES = re.compile(r"\\[,;: !]|~|\\quad|\\left|\\right|[\u00a0\u2009\u202f]")
_VARIABLE = re.compile(r"[a-zA-Z]\s{0,9}=")
_PLAIN = str.maketrans(
    {chr(0xFF10 + digit): str(digit) for digit in range(10)}
    | dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-")
    | dict.fromkeys("\u2044\u2215\uff0f", "/")
    | {"\uff0b": "+", "\uff0c": ",", "\uff0e": ".", "\uff05": "%", "\uff1d": "=", "\uff08": "(", "\uff09": ")"}
)
_MARK = "####"


class Number(NamedTuple):
    """A value, and whether it is a percentage; the value of 50 % is 1/2."""

    value: Fraction
    percent: bool = False

    def equals(self, other: "Number") -> bool:
        """Whether both are equal; if only one is a percentage, 50 % equals 50 too."""
        if self.value == other.value:
            return True
        same = self.percent != other.percent and self._shown() == other._shown()
        return same and abs(self._shown()) >= 1  # 0.5 % does not equal 0.5

    def _shown(self) -> Fraction:
        return self.value * 100 if self.percent else self.value


def final_number(text: str) -> Number | None:
    """The number in the last box, else after the last `####`, else the last number of the text.

    None if it is a part of something larger, as in `2^10`, `1,2` or `x + 3`: another number would be a guess.
    """
    box = last_box(text)
    if box is not None:
        return whole_number(box)
    _, mark, tail = text.rpartition(_MARK)
    if not mark:
        return _last(text)
    # A model that does not stop continues after the line with its answer.
    line = _first_line(tail)
    return whole_number(line) or _last(line if _NUMBER.search(_plain(line)) else tail)


def is_clear_answer(text: str) -> bool:
    """Whether the text has one unmistakable answer that is a number: in a box, after `####`, or the whole text."""
    box = last_box(text)
    _, mark, tail = text.rpartition(_MARK)
    return whole_number(box if box is not None else _first_line(tail) if mark else text) is not None


def _first_line(tail: str) -> str:
    return tail.strip()[: _ANSWER + 1].split("\n", 1)[0]


def whole_number(text: str) -> Number | None:
    r"""The number that makes up the text, with or without a unit: `72 km` is 72, `\sqrt{2}` and `2^{10}` are none."""
    if len(text) > _ANSWER:
        return None
    plain = _plain(text).strip("* \t\r\n")
    variable = _VARIABLE.match(plain)
    plain = plain[variable.end() :].strip() if variable else plain
    match = _NUMBER.match(plain)
    return _read(plain, match) if match and _UNIT.fullmatch(plain.rstrip("$"), match.end()) else None


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`, whose braces may nest; None if it is not closed."""
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
    plain, match = _plain(text), None
    for match in _NUMBER.finditer(plain):  # noqa: B007  # only the last one is used
        pass
    return _read(plain, match) if match else None


def _plain(text: str) -> str:
    text = _THOUSANDS.sub("", text.translate(_PLAIN))
    text = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    return _FRACTION.sub(_slash, _SPACES.sub(" ", _WORDS.sub(r" \1 ", _DEGREES.sub("°", text))))


def _slash(match: re.Match[str]) -> str:
    parts = [_PART.fullmatch(part) for part in (match[1] or match[2], match[3] or match[4])]
    if not (parts[0] and parts[1]):
        return match[0]
    sign = "-" if parts[0][1] != parts[1][1] else ""
    mixed = match.start() and match.string[match.start() - 1].isdecimal()
    return f"{' ' if mixed or sign else ''}{sign}{parts[0][2]}/{parts[1][2]}"


def _read(text: str, match: re.Match[str]) -> Number | None:
    """The number; None if it is a part of something larger."""
    before, after = text[max(0, match.start() - _NEAR) : match.start()], text[match.end() : match.end() + _NEAR]
    if _BEFORE_PART.search(before) or _AFTER_PART.match(after):
        return None
    if _IN_LIST.search(before) and after.lstrip(" \t")[:1] in tuple(")]}"):
        return None
    if match["sign"] and _AFTER_NUMBER.search(before):
        return None
    grouped = _BEFORE_GROUP.search(before) and _GROUP.match(match["digits"] or match["top"])
    return None if grouped else _value(match)


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
    """The value; None for `1,2,3`, `12,5` and `1.2.3`."""
    if not _DIGITS.fullmatch(digits) or abs(int(exponent or 0)) > _HIGHEST:
        return None
    return Fraction(digits.replace(",", "")) * Fraction(10) ** int(exponent or 0)
