"""Numbers, lengths and tables as text of a page."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import Any

from length_gen.lightning_modules.reporting.results import Curve

NOTHING, TO, AT_LEAST = "\N{EM DASH}", "\N{EN DASH}", "\N{GREATER-THAN OR EQUAL TO} "


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a markdown table; a bar in a value becomes a slash."""
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(str(value).replace("|", "/") for value in row) + " |" for row in rows), ""]


def natural(label: str) -> list:
    """A key that sorts numbers in labels by their size."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", label)]


def plural(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def few_to_many(values: Iterable[int]) -> str:
    """Lowest and highest with a dash between, or the number that all are."""
    low, high = min(values := list(values)), max(values)
    return f"{low:,}" if low == high else f"{low:,}{TO}{high:,}"


def share(value: float) -> str:
    """A share in percent, in full ones but for those that would look like all or nothing: `98%`, `99.6%`."""
    return f"{100 * value:.0f}%" if 0.01 <= value < 0.99 or value in (0, 1) else f"{100 * value:.3g}%"


def spread(values: Sequence[float]) -> str:
    """Of the seed in the middle, the lower one of two, and (lowest to highest), in percent."""
    if not values:
        return NOTHING
    low, middle, high = (share(value)[:-1] for value in (min(values), median_low(values), max(values)))
    return f"{middle}%" if low == high else f"{middle}% ({low}{TO}{high})"


def ends(outcomes: Sequence[tuple[int, bool]] | None) -> str:
    """The same of (length, whether nothing longer was tried): never a length between two that were tried."""
    if not outcomes:
        return NOTHING
    low, middle, high = (f"{AT_LEAST * last}{length:,}" for length, last in (
        min(outcomes), median_low(outcomes), max(outcomes)))
    return middle if low == high else f"{middle} ({low}{TO}{high})"


def course(curve: Curve) -> str:
    """Exact match by length: `100% to 200, 34% (20-40) at 500, 0% from 1,000`."""
    lengths = curve.lengths
    whole = next((k for k, n in enumerate(lengths) if min(curve.at(n)) < 1), len(lengths))
    none = next((k for k in range(len(lengths), whole, -1) if max(curve.at(lengths[k - 1])) > 0), whole)
    parts = [f"100% to {lengths[whole - 1]:,}"] * (whole > 0)
    parts += [f"{spread(curve.at(n))} at {n:,}" for n in lengths[whole:none]]
    parts += [f"0% {'from' if n < lengths[-1] else 'at'} {n:,}" for n in lengths[none : none + 1]]
    return ", ".join(parts)


def reach_text(reach: tuple[int, float]) -> str:
    """A length and the share that is exact there, `1,000 (98%)`; `0` without a length."""
    return f"{reach[0]:,} ({share(reach[1])})" if reach[0] else "0"


def phases(errors: Mapping[str, int]) -> str:
    """Where the first errors fall at the first length that is not all exact, with the number of problems."""
    common = Counter(errors).most_common(2)
    return ", ".join(f"{phase or 'outside'} ({count})" for phase, count in common) or NOTHING


def cell(value: Any) -> str:
    """A benchmark's value as text; of a mapping its parts, with the mean of each list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(sum(v) / len(v) if isinstance(v, list) else v)}" for key, v in value.items())
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)
