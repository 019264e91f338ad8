"""Sizes, durations, counts and precisions as text, and back. Standard library only."""


def size(count: float) -> str:
    """A number of bytes in the largest unit that fits: 512 B, 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit fits every number")


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """The seconds of a duration such as 90s, 30m, 2h or 7d; bare numbers are seconds. Raises ValueError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS else (text, "s")
    value = float(number) * _SECONDS[unit]
    if not 0 <= value < float("inf"):
        raise ValueError(f"`{text}` is not a duration")
    return value


def millions(count: int) -> str:
    """A number of parameters: 0.4 M, 7.2 B."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def span(seconds: float) -> str:
    """A duration in the largest unit that fits: 40 s, 12 min, 5 h, 30 d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:,.0f} {unit}"
    return f"{max(0.0, seconds):,.0f} s"


def quantity(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def precision_words(mixed: str) -> str:
    """The precision of a training, from accelerate's name of its mixed precision: float32, mixed bf16."""
    return "float32" if mixed == "no" else f"mixed {mixed}"
