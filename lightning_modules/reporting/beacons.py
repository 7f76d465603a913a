"""The horizon as a knob: how far models get in style `beacons_K`, by K."""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from length_gen.lightning_modules.reporting.claims import horizon_of
from length_gen.lightning_modules.reporting.pages import Pages
from length_gen.lightning_modules.reporting.plots import growth_figure
from length_gen.lightning_modules.reporting.results import Curve
from length_gen.lightning_modules.reporting.text import NOTHING, ends, natural, table
from length_gen.lightning_modules.reporting.titles import knob_title, of_curves


def beacons(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of a table, of the experiments `<task>_beacons_<n>`: problem, size, K (style `paper` has none), horizon and
    how far."""
    rows = []
    for c in sorted((c for c in everything if _shown(c)), key=lambda c: (
            c.task, c.trained, c.variant, c.backbone, c.style == "paper", natural(c.style))):
        known = horizon_of(c, horizons)
        rows.append({"problem": " ".join(filter(None, (c.task, c.variant))), "trained": str(c.trained),
                     "size": c.backbone.partition(" ")[2],
                     "style": c.style, "K": _every(c) or NOTHING,
                     "horizon": (f"{known[1]:,}" + ", growing" * known[0].startswith("growing")) if known else NOTHING,
                     "seeds": str(len(c.exact)), "exact": ends(c.outcomes()),
                     "each": ", ".join(f"{reached:,}" for reached, _ in c.outcomes())})
    return rows


def beacons_section(pages: Pages, everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of the main page: a figure and a table; none where there are no such experiments."""
    rows = beacons(everything, horizons)
    if not rows:
        return []
    lines: defaultdict[str, dict[float, list[tuple[int, bool]]]] = defaultdict(dict)
    knob: defaultdict[int, list[Curve]] = defaultdict(list)
    for c in everything:
        if _shown(c) and _every(c):
            label, every = f"{c.task} <= {c.trained}, {c.backbone.partition(' ')[2]}", int(_every(c).partition(" ")[0])
            lines[label].setdefault(every, []).extend(c.outcomes())  # of all variants
            knob[every].append(c)
    note = f"style beacons_K; {of_curves(c for found in knob.values() for c in found)}; points: a seed on a kind of " \
           f"problem; line: the one in the middle"
    return ["## The horizon as a knob", "",
            "Style `beacons_K` repeats the phase every K tokens, style `paper` never; *random*: each problem's clock "
            "begins at a time of its own. Each seed:", "",
            *(pages.picture("beacons", "how far, by K", partial(
                growth_figure, dict(sorted(lines.items())), "K: tokens between two phases", knob_title(knob, "K"),
                "exact up to", note), main=True) if any(len(line) > 1 for line in lines.values()) else []),
            *table(["problem", "trained up to", "size", "K", "horizon (tokens)", "seeds", "exact up to", "each seed"],
                   [[row[key] for key in ("problem", "trained", "size", "K", "horizon", "seeds", "exact", "each")]
                    for row in rows])]


def _shown(curve: Curve) -> bool:
    return bool(re.fullmatch(r".+_beacons_\d+", curve.experiment)) and "structured" not in curve.variant


def _every(curve: Curve) -> str:
    """The K of a style, with how its clock begins; nothing for style `paper`."""
    return curve.style.removeprefix("beacons_").replace("_", " ") if curve.style != "paper" else ""
