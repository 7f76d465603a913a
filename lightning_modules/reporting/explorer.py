"""All results as one page to look through in a browser (explorer.html, with the results and Vega-Lite inside).

The files of results stand in the page as they are. What is worked out from them, curves, rows of the paper's tables and
horizons, is what the report's other pages say, and names the places of its records.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from length_gen.lightning_modules.reporting.claims import (
    KINDS,
    PAPER,
    STYLES,
    by_kind,
    reached_by_horizon,
    row_summary,
)
from length_gen.lightning_modules.reporting.results import PASSES, Curve, Run, kind
from length_gen.tools import UserError
from length_gen.tools.files import atomic_path

TEMPLATE = Path(__file__).with_name("explorer.html")
LICENSES = TEMPLATE.with_name("vega_licenses.txt")


def write_explorer(path: Path, certificates: Mapping[str, Any], runs: Sequence[Run], everything: Sequence[Curve],
                   rows: Sequence[dict[str, Any]], horizons: Sequence[dict[str, Any]]) -> None:
    """Write the page. It needs no network, and nothing beside it.

    certificates: `certificates/<name>.json` -> content
    everything:   the curves of the runs; rows: of the paper's tables; horizons: contents of results/horizon/
    Raises UserError where vl-convert-python, which has Vega-Lite, is not installed.
    """
    data = contents(certificates, runs, everything, rows, horizons)
    parts = {"library": library(), "licenses": LICENSES.read_text(encoding="utf-8"),
             "data": json.dumps(data, separators=(",", ":"), ensure_ascii=False)}
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", base64.b64encode(zlib.compress(part.encode(), 9)).decode())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def library() -> str:
    """Vega-Lite and what it needs, as a script that sets `vegaEmbed`. UserError if it is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise UserError("--html needs Vega-Lite, of the package vl-convert-python: pip install -e '.[html]'") from None
    return f"(() => {{{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}}})();"  # its names are its own


def contents(certificates: Mapping[str, Any], runs: Sequence[Run], everything: Sequence[Curve],
             rows: Sequence[dict[str, Any]], horizons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the page shows.

    files:   `<experiment>/<name>.json` -> content, of all runs and of the certificates
    curves:  one for each recipe and kind of problem; `seeds` has of each seed the records, as (file, place in it)
    paper:   rows of the paper's tables, each with `point`, its (length, share), and `curves`, ours by style
    horizon: every trained Mamba whose task's horizon is known; `exception`: it is not as its kind is expected to be
    passes:  tasks where what counts is that a problem is solved
    """
    names = {id(run): f"{run.experiment}/{run.name}.json" for run in runs}
    places = {id(curve): place for place, curve in enumerate(everything)}
    return {
        "files": {**{names[id(run)]: run.facts for run in runs}, **certificates},
        "curves": [{**curve.summary(), "trained": curve.trained, "seeds": _seeds(curve, names)}
                   for curve in everything],
        "paper": [{**row_summary(row), "point": _point(row["paper"]),
                   "curves": {style: places[id(row["ours"][style][0])] for style in STYLES if row["ours"][style]}}
                  for row in rows],
        "kinds": KINDS,
        "horizon": _horizon(everything, horizons, places),
        "certificates": list(certificates),
        "passes": sorted(PASSES),
    }


def _seeds(curve: Curve, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Of each seed in order the files and places of the curve's records."""
    found: dict[Any, list[tuple[str, int]]] = {}
    own = (curve.task, curve.variant, curve.setting, curve.style)
    for run in curve.runs:
        records = run.facts["records"]  # as in the file, where a pass rate is not yet in the place of exact match
        found.setdefault(run.facts.get("seed", run.name), []).extend(
            (names[id(run)], place) for place, record in enumerate(records) if kind(record) == own)
    return [{"seed": seed, "records": places} for seed, places in found.items()]


def _point(paper: str) -> tuple[int, float] | None:
    """`10 -> 1,000 (98%)` as (1000, 0.98); None where the paper gives no number."""
    found = PAPER.search(paper)
    return (int(found[1].replace(",", "")), int(found[2]) / 100) if found else None


def _horizon(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]],
             places: Mapping[int, int]) -> list[dict[str, Any]]:
    """Each trained Mamba: its kind of problem, horizon and reach."""
    exceptions = set()
    for name, (learnt, far, _) in by_kind(everything, horizons).items():
        exceptions |= {(id(one.curve), one.seed) for one in learnt if (one in far) == (name == KINDS[2])}
    return [{"kind": KINDS.index(one.kind), "tokens": one.tokens, "label": one.label, "curve": places[id(one.curve)],
             "seed": one.seed, "exact": one.exact, "tried": one.tried, "trained": one.curve.trained,
             "exception": (id(one.curve), one.seed) in exceptions} for one in reached_by_horizon(everything, horizons)]
