"""Paired comparisons of two models on the same rows: means, intervals, tests, and how many rows would tell.

A row is the unit. The interval of a mean difference is Student's, corrected for skewness as Hall does ("On the removal
of skewness by transformation", 1992). A difference counts if that interval excludes 0 and a sign-flip permutation
test agrees, which is exact for equal models however the differences are distributed.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from statistics import NormalDist, fmean

LEAST = 10  # rows
_STRICTER = ((20, 10), (30, 4))  # (rows, factor): few rows hardly show skewness, so that the test is stricter below
CONFIDENCE = 0.95
_POWER = 0.8  # of the number of rows that would do
_FLIPS, _BLOCKS = 4000, 1000  # permutations, and sums that are flipped together where there are more rows
_FEW, _CLEARLY = 200, 0.25  # permutations after which a test ends if so many of them are as far from 0
_AS_BITS = bytes.maketrans(b"01", b"\0\1")
_MOST_ROWS = 1_000_000
_SERIES = 200  # degrees of freedom up to which Student's distribution is summed
_TIE = 1e-12  # of the mean size of the differences: rounding

_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean of differences, its interval and test; `better`: True, False, or None where the rows cannot tell.

    Positive differences are better. `needed`: the rows that would show a difference of this size; None if none would.
    """

    rows: int
    mean: float
    interval: tuple[float, float]
    p: float
    better: bool | None
    needed: int | None = None

    @property
    def has_interval(self) -> bool:
        """Whether rows have values of their own, without which nothing is claimed."""
        return math.isfinite(self.interval[1])


@dataclass(frozen=True, kw_only=True)
class Wins:
    """Rows that a model wins, ties and loses; the rate counts a tie as half a win, its interval is Wilson's."""

    wins: int
    ties: int
    losses: int
    interval: tuple[float, float]
    p: float

    @property
    def rate(self) -> float:
        """The share of rows that it wins, a tie as half of one."""
        return (self.wins + self.ties / 2) / (self.wins + self.ties + self.losses)


def compare(differences: Sequence[float], *, comparisons: int = 1, seed: int = 0) -> Comparison:
    """Whether the differences of rows are positive; `comparisons` are made at once, each then at a stricter level.

    The level of each is Bonferroni's: 5 % over their number.
    """
    alpha, n = (1 - CONFIDENCE) / comparisons, len(differences)
    mean, deviation, skewness = _moments(differences)
    if not deviation:
        return _constant(mean, n, alpha)
    interval = _interval(mean, deviation / math.sqrt(n), skewness, n, alpha)
    p = permutation_p(differences, seed=seed)
    tells = (interval[0] > 0 or interval[1] < 0) and p <= _level(n, alpha) and n >= LEAST
    needed = None if tells else rows_needed(mean, deviation, n, alpha)
    return Comparison(rows=n, mean=mean, interval=interval, p=p, better=mean > 0 if tells else None, needed=needed)


def without_interval(mean: float, rows: int) -> Comparison:
    """The comparison of two figures that rows have no values for: nothing can be claimed of it."""
    return Comparison(rows=rows, mean=mean, interval=(-math.inf, math.inf), p=1.0, better=None)


def _constant(mean: float, n: int, alpha: float) -> Comparison:
    """The comparison of rows that all differ by the same: by nothing, as of a model with itself, or by a step."""
    p = 1.0 if mean == 0 else max(2.0 ** (1 - n), 2.0**-1000)
    tells = n >= LEAST and p <= _level(n, alpha)
    return Comparison(rows=n, mean=mean, interval=(mean, mean), p=p, better=mean > 0 if tells else None)


def _level(n: int, alpha: float) -> float:
    return alpha / next((factor for rows, factor in _STRICTER if n < rows), 1)


def count_wins(differences: Sequence[float], *, comparisons: int = 1) -> Wins:
    """The rows with a positive, no and a negative difference, and a sign test."""
    wins, losses = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    n = len(differences)
    ties = n - wins - losses
    z = _NORMAL.inv_cdf(1 - (1 - CONFIDENCE) / comparisons / 2)
    interval = _wilson((wins + ties / 2) / n, n, z)
    return Wins(wins=wins, ties=ties, losses=losses, interval=interval, p=sign_p(wins, losses))


def rows_needed(mean: float, deviation: float, rows: int, alpha: float = 1 - CONFIDENCE) -> int | None:
    """About how many rows would show a difference of `mean` four times out of five; None for more than a million."""
    if not mean:
        return None
    z = _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(_POWER)
    needed = max(LEAST, rows + 1, math.ceil((z * deviation / mean) ** 2))
    if needed > _MOST_ROWS:
        return None
    digits = 10 ** max(0, len(str(needed)) - 2)  # two of them: it is an estimate
    return int(math.ceil(needed / digits) * digits)


def permutation_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """How often random signs give a mean at least as far from 0; exact for few rows. Differences of 0 say nothing."""
    values = [each for each in differences if each]
    values = [math.fsum(values[at::_BLOCKS]) for at in range(min(len(values), _BLOCKS))]
    total = math.fsum(values)
    seen = abs(total) * (1 - 1e-9)
    if 2 ** len(values) <= _FLIPS:
        sums = [0.0]
        for each in values:
            sums = [one + sign for one in sums for sign in (each, -each)]
        return sum(abs(each) >= seen for each in sums) / len(sums)
    drawn, far = random.Random(seed), 0  # noqa: S311  # no secret
    for flips in range(1, _FLIPS + 1):
        far += abs(2 * _part(values, drawn) - total) >= seen
        if flips == _FEW and far > _CLEARLY * flips:
            break
    return (far + 1) / (flips + 1)


def _part(values: Sequence[float], drawn: random.Random) -> float:
    """The sum of a random half of the values: those whose sign stays."""
    bits = f"{drawn.getrandbits(len(values)):0{len(values)}b}".encode().translate(_AS_BITS)
    return sum(compress(values, bits))


def sign_p(wins: int, losses: int) -> float:
    """The two-sided sign test of wins and losses; ties say nothing."""
    n, fewer = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0
    if n > 1000:  # the normal distribution, with the correction for whole numbers
        return min(1.0, 2 * _NORMAL.cdf((fewer + 0.5 - n / 2) / math.sqrt(n / 4)))
    return min(1.0, 2 * sum(math.comb(n, each) for each in range(fewer + 1)) / 2.0**n)


def _moments(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, standard deviation, skewness); a deviation that is rounding is 0."""
    n, mean = len(values), fmean(values)
    size = fmean(map(abs, values))
    deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in values) / (n - 1)) if n > 1 else 0.0
    if deviation <= _TIE * size:
        return mean, 0.0, 0.0
    return mean, deviation, fmean(((each - mean) / deviation) ** 3 for each in values)


def _interval(mean: float, error: float, skewness: float, n: int, alpha: float) -> tuple[float, float]:
    t = student_quantile(1 - alpha / 2, n - 1)
    return mean - error * _hall(t, skewness, n), mean - error * _hall(-t, skewness, n)


def _hall(t: float, skewness: float, n: int) -> float:
    """The quantile of a mean's t value for a skewed distribution: the inverse of Hall's transformation."""
    step = skewness / math.sqrt(n)
    if abs(step) < 1e-6:
        return t
    cube = 1 + step * (t - step / 6)
    return 3 / step * (math.copysign(abs(cube) ** (1 / 3), cube) - 1)


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's distribution for a probability above one half."""
    z = _NORMAL.inv_cdf(probability)
    if freedom > _SERIES:  # Fisher's expansion, exact to six digits here
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _student(angle: float, freedom: int) -> float:
    """The probability between -t and t, for tan(angle) = t / √freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for each in range(2 - (1 - odd), freedom, 2):
        total += term
        term *= square * each / (each + 1)
    total *= sine
    return 2 / math.pi * (angle + total) if odd else total


def _wilson(rate: float, n: int, z: float) -> tuple[float, float]:
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
