"""What a task's trajectories ask of a memory, by length: the horizon, tokens, turns, kinds; no model is needed."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from datamodules.horizon import horizon, kind_shares
from datamodules.tasks import Task
from datamodules.trajectory import Trajectory


def horizons(task: Task, lengths: Sequence[int], problems: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row a length: `horizon` of the trajectories up to that length together, the rest of that length alone.

    problems: validation problems of each length and variant
    """
    vocabulary, all_so_far = task.vocabulary(), []
    for length in lengths:
        task.check_length(length)
        here: list[Trajectory] = [task.record(task.problem("validation", seed, length, index, variant))
                                  for variant in task.variants_at(length) for index in range(problems)]
        all_so_far += here
        found = horizon(all_so_far, vocabulary)
        row = {"length": length, "horizon": found.horizon, "phases": found.phases, "clash": None,
               "tokens": sum(len(t.tokens) for t in here) / len(here),
               "turns": sum(t.turns() for t in here) / len(here), "shares": kind_shares(here)}
        if found.clash:
            row["clash"] = {"contexts": [" ".join(c[-40:]) for c in found.clash.contexts],
                            "following": list(found.clash.following), "phases": list(found.clash.phases)}
        yield row


def analysis_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The rows for a person: one line a length, the phases of the worst decisions by how often they occur."""
    table = Table(title=title, title_justify="left")
    for name in ("length", "horizon", "tokens", "turns"):
        table.add_column(name, justify="right")
    table.add_column("where the worst decisions are")
    for row in rows:
        phases = ", ".join(f"{phase} ({count})" for phase, count in list(row["phases"].items())[:3])
        table.add_row(f"{row['length']:,}", f"{row['horizon']:,}", f"{row['tokens']:,.0f}", f"{row['turns']:,.0f}",
                      phases)
    shares = ", ".join(f"{kind} {share:.1%}" for kind, share in rows[-1]["shares"].items())
    table.caption = f"at {rows[-1]['length']:,}: {shares}"
    return table


def clash_text(row: dict[str, Any], tokens: int = 12) -> str:
    """The clash of a row in two lines: the last tokens of both contexts and what follows each."""
    if not row["clash"]:
        return ""
    lines = []
    for context, following, phase in zip(*(row["clash"][k] for k in ("contexts", "following", "phases")), strict=True):
        lines.append(f"  ... {' '.join(context.split()[-tokens:])} -> {following}   ({phase})")
    return "\n".join(lines)
