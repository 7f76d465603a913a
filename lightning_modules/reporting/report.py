"""The command `report`: docs/results.md and the pages under docs/results/ from the files in results/, nothing else."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from length_gen.lightning_modules.reporting.beacons import beacons
from length_gen.lightning_modules.reporting.claims import paper_grid, paper_rows, row_summary
from length_gen.lightning_modules.reporting.details import (
    benchmark_page,
    certificates_figure,
    experiment_pages,
    growth_page,
    horizons_page,
    phase_figure,
    recipes_page,
)
from length_gen.lightning_modules.reporting.explorer import write_explorer
from length_gen.lightning_modules.reporting.first_errors import failures, grouped
from length_gen.lightning_modules.reporting.overview import overview
from length_gen.lightning_modules.reporting.pages import Pages
from length_gen.lightning_modules.reporting.prose import documents
from length_gen.lightning_modules.reporting.results import Curve, Run, curves, models, read_results, read_runs
from length_gen.lightning_modules.reporting.text import plural
from length_gen.lightning_modules.runs.sweep_file import read_sweep
from length_gen.tools import UserError

HORIZON = ("task", "setting", "style", "verdicts"), ("horizon", "length", "variant", "phases")
"""What a file of `analyze` has, and each of its records."""


def report(results: str = "results", out: str = "docs/results.md", queue: str = "configs/sweeps/paper.yaml",
           check: bool = False, html: str | None = None) -> None:
    """Write the results page, and those that it leads to, from the files in a folder, and fill in the numbers of other
    documents; print how much of the paper's grid is there.

    Args:
        results: the folder of results
        out: the page; the others, and all figures, go to a folder of its name beside it. A claims.yaml beside it says
            which numbers of which other documents are from which records (reporting/prose.py)
        queue: the sweep file of the paper's grid
        check: write nothing, and fail if a page is not what the files give, or a number has no record
        html: write this file instead, one page to look through all results in a browser
    """
    if not Path(results).is_dir():
        raise UserError(f"there is no folder {results}: give the folder of results")
    pages = Pages(Path(results), Path(out))
    if pages.folder.resolve() == Path(results).resolve():
        raise UserError(f"the pages beside {out} would go into {results}, the folder of results: give another --out")
    runs = read_runs(results)
    everything = curves(runs)
    cells = read_sweep(queue) if Path(queue).is_file() else []
    state = f"{queue}: {sum(cell.result.is_file() for cell in cells)} of {len(cells)} cells are there"
    rows = paper_rows(everything, pages.results / "paper.yaml")
    horizons = [read_results(path, *HORIZON) for path in sorted(pages.results.glob("horizon/*.json"))]
    if html:
        print(f"packing {plural(models(runs), 'trained model')} and Vega-Lite into {html} ...", flush=True)
        proofs = {f"certificates/{path.name}": read_results(path)
                  for path in sorted(pages.results.glob("certificates/*.json"))}
        write_explorer(Path(html), proofs, runs, everything, rows, horizons)
        print(f"{html} ({Path(html).stat().st_size / 1e6:.1f} MB) needs nothing beside it: open it in a browser")
        return
    make(pages, runs, everything, rows, horizons, f" ({state})" if cells else "")
    wrong = []
    if (claims := Path(out).with_name("claims.yaml")).is_file():
        texts, wrong = documents(claims, {
            "curves": [curve.summary() for curve in everything], "paper": [row_summary(row) for row in rows],
            "grid": [seeds for _, *cells in paper_grid(rows)[1] for seeds in cells],
            "beacons": beacons(everything, horizons),
            "first_errors": {name: asdict(one) for name, one in grouped(failures(runs, horizons)[0]).items()}})
        pages.texts |= texts
    if not check:
        pages.write()
    wrong = pages.wrong() + wrong
    if wrong and check:
        raise UserError("; ".join(wrong))
    for line in wrong:
        print(line)
    print(f"{out}: {plural(len(everything), 'curve')} of {plural(models(runs), 'trained model')}")
    if cells:
        print(state)


def make(pages: Pages, runs: Sequence[Run], everything: Sequence[Curve], rows: Sequence[dict[str, Any]],
         horizons: Sequence[dict[str, Any]], state: str) -> None:
    """Add all pages; `rows`: of the paper's tables, `state`: of its grid, for the main page."""
    recipes_page(pages, rows, horizons)
    horizons_page(pages, horizons)
    growth_page(pages, everything)
    certificates_figure(pages, pages.results / "certificates")
    phase_figure(pages, pages.results / "theory" / "latch.json")
    recipes = experiment_pages(pages, everything)
    more = {"Experiments, a page each with every recipe and seed": [
        f"{pages.link(name, name.replace('_', ' '))} ({count})" for name, count in recipes.items()]}
    for folder in ("theory", "benchmarks"):
        if titles := benchmark_page(pages, folder, pages.results / folder):
            more[folder.capitalize()] = [f"{pages.link(folder, plural(len(titles), 'table'))}: {', '.join(titles)}"]
    overview(pages, runs, everything, rows, horizons, state, more)
