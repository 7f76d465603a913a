"""The command `analyze`: how far back a model must look, without training."""

from pathlib import Path

import torch
from rich.console import Console

from length_gen.datamodules.horizon import verdict
from length_gen.lightning_modules.evaluation.analysis import analysis_table, by_variant, clash_text, horizons
from length_gen.lightning_modules.evaluation.evaluate import check_lengths
from length_gen.lightning_modules.evaluation.metrics import write_metrics
from length_gen.lightning_modules.evaluation.plots import horizon_figure, save_figure
from length_gen.lightning_modules.provenance import origin
from length_gen.lightning_modules.runs.load import Run
from length_gen.tools import UserError


def analyze(run: Run, lengths: list[int] = [5, 10, 20, 50, 100, 200], problems: int = 50,  # noqa: B006 (jsonargparse)
            folder: str = "runs/analysis") -> None:
    """How far back one must look to know every token that a model has to predict, by length; without training.

    Args:
        run: its task; it need not be trained
        lengths: of the problems, growing; the horizon is that of all trajectories up to each length, of each variant
        problems: validation problems of each length and variant
        folder: where the table and the plot go
    """
    task = run.task
    if not lengths or problems < 1:
        raise UserError(f"lengths {list(lengths)} with {problems} problems leave nothing to analyze: expected at "
                        f"least one of each")
    check_lengths(lengths)
    name = f"{task.name}, {task.setting}, {task.style}"
    rows = []
    console = Console(emoji=False)
    with console.status("looking how far back each decision lies"):
        for row in horizons(task, lengths, problems, run.data.evaluation_seed):
            rows.append(row)
            what = " ".join(filter(None, (row["variant"], f"{row['length']:,}")))
            console.print(f"[dim]{what}: {row['horizon']:,} tokens[/dim]")
    reached = by_variant(rows)
    console.print(analysis_table(rows, f"horizon of {name}"))
    verdicts = {variant: verdict(list(line), list(line.values())) for variant, line in reached.items()}
    for variant, result in verdicts.items():
        worst = next(row for row in reversed(rows) if row["variant"] == variant)
        console.print(f"{' '.join(filter(None, ('verdict', variant)))}: {result}",
                      f"the worst decision at {worst['length']:,}:", clash_text(worst), sep="\n", markup=False,
                      highlight=False)
    stem = Path(folder) / name.replace(", ", "_")
    write_metrics(stem.with_suffix(".json"), rows, **origin(torch.device("cpu")), task=task.name,
                  setting=task.setting, style=task.style, problems=problems, verdicts=verdicts)
    worst = max(reached, key=lambda variant: max(reached[variant].values()))
    figure = horizon_figure(reached, task.max_length, f"{worst}: " * (len(reached) > 1) + verdicts[worst],
                            f"horizon of {name}; {problems} problems of each length")
    save_figure(figure, stem.with_suffix(".png"))
    console.print(f"{stem}.json, {stem}.png")
