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


def beacons(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of a table, of the experiments `<task>_beacons_<n>`: problem, size, K (style `paper` has none), horizon and
    how far."""
    rows = []
    for c in sorted((c for c in everything if re.fullmatch(r".+_beacons_\d+", c.experiment)),
                    key=lambda c: (c.task, c.variant, c.backbone, c.style == "paper", natural(c.style))):
        known = horizon_of(c, horizons)
        rows.append({"problem": " ".join(filter(None, (c.task, c.variant))), "size": c.backbone.partition(" ")[2],
                     "style": c.style, "K": c.style.removeprefix("beacons_") if c.style != "paper" else NOTHING,
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
    for c in everything:
        if re.fullmatch(r".+_beacons_\d+", c.experiment) and c.style != "paper" and "structured" not in c.variant:
            label = ", ".join([" ".join(filter(None, (c.task, c.variant))), c.backbone.partition(" ")[2]])
            lines[label][int(c.style.removeprefix("beacons_"))] = c.outcomes()
    return ["## The horizon as a knob", "",
            "Style `beacons_K` repeats the phase every K tokens; style `paper` is the same without. Each seed:", "",
            *(pages.picture("beacons", "how far, by K", partial(
                growth_figure, dict(sorted(lines.items())), "K: tokens between two phases", "style beacons_K",
                "exact up to"), main=True) if any(len(line) > 1 for line in lines.values()) else []),
            *table(["problem", "size", "K", "horizon (tokens)", "seeds", "exact up to", "each seed"],
                   [[row[key] for key in ("problem", "size", "K", "horizon", "seeds", "exact", "each")]
                    for row in rows])]
