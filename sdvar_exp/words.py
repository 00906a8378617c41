"""Words of messages that recur: a guess at what was meant, numbers with what they count, spans, durations, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `word`, if one does."""
    near = get_close_matches(word, list(known), n=1)
    return near[0] if near else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean 'x'?`, or, where no known name is near, `; <otherwise>`, or nothing."""
    name = nearest(word, known)
    if name:
        return f"; did you mean {name!r}?"
    return f"; {otherwise}" if otherwise else ""


def choices_text(names: Iterable[str], what: str = "choose one of") -> str:
    """`choose one of a, b, c`."""
    return f"{what} {', '.join(names)}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


def some(texts: Iterable[object], most: int = 6, comma: str = ", ") -> str:
    """The first of some texts, and an ellipsis where there are more."""
    found = list(map(str, texts))
    return comma.join([*found[:most], *(["…"] if len(found) > most else [])])


def count(number: int, what: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def span(numbers: Iterable[int]) -> str:
    """`5`, or `5 to 8` where they differ. Raises `ValueError` for none."""
    found = sorted(set(numbers))
    if not found:
        raise ValueError("a span needs at least one number")
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def first_line(error: Exception) -> str:
    """An error in one line: its kind, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def missing(value: object) -> bool:
    """Whether a value of a table is not there: None, or not a number."""
    return value is None or (isinstance(value, float) and value != value)


def aligned(rows: Sequence[Sequence[str]], numbers: bool = False) -> list[str]:
    """Rows of texts as lines with equal columns. numbers: all columns but the first stand at their right edges."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        (text.rjust(w) if numbers and i else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
    return ["  ".join(line).rstrip() for line in lines]


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`: a time that was measured."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def roughly(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`: a time that is estimated."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count_bytes: float) -> str:
    """`120 kB`, `3.4 MB`, `12.0 GB`, decimal."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count_bytes >= scale:
            return f"{count_bytes / scale:.1f} {unit}"
    return f"{count_bytes / 1e3:.0f} kB"
