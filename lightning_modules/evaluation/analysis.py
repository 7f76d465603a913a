"""What a task's trajectories ask of a memory, by length: the horizon, tokens, turns, kinds; no model is needed."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from length_gen.datamodules.horizon import horizon, kind_shares
from length_gen.datamodules.tasks import Task
from length_gen.datamodules.trajectory import Trajectory


def horizons(task: Task, lengths: Sequence[int], problems: int, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each length and variant: `horizon` of the variant's own trajectories up to that length, held against
    the contexts of all variants' (which training mixes), with how many decisions each phase has and what the one needs
    that needs most; the rest of that length alone.

    problems: validation problems of each length and variant
    """
    vocabulary, all_so_far, variants = task.vocabulary(), [], []
    for length in lengths:
        task.check_length(length)
        here: dict[str, list[Trajectory]] = {
            variant: [task.record(task.problem("validation", seed, length, index, variant))
                      for index in range(problems)] for variant in task.variants_at(length)}
        for variant, trajectories in here.items():
            all_so_far += trajectories
            variants += [variant] * len(trajectories)
        for variant, trajectories in here.items():
            found = horizon(all_so_far, vocabulary, [other == variant for other in variants])
            row = {"length": length, "variant": variant, "horizon": found.horizon, "phases": found.phases,
                   "needs": {phase: {"decisions": count, "need": need} for phase, (count, need) in found.needs.items()},
                   "clash": None, "tokens": sum(len(t.tokens) for t in trajectories) / len(trajectories),
                   "turns": sum(t.turns() for t in trajectories) / len(trajectories),
                   "shares": kind_shares(trajectories)}
            if found.clash:
                row["clash"] = {"contexts": [" ".join(c[-40:]) for c in found.clash.contexts],
                                "following": list(found.clash.following), "phases": list(found.clash.phases)}
            yield row


def by_variant(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, int]]:
    """Variant -> length -> horizon, of rows of `horizons`."""
    found: dict[str, dict[int, int]] = {}
    for row in rows:
        found.setdefault(row["variant"], {})[row["length"]] = row["horizon"]
    return found


def analysis_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The rows for a person: one line a length and variant, the phases of the worst decisions by how often they
    occur."""
    table, several = Table(title=title, title_justify="left"), any(row["variant"] for row in rows)
    for name in (*(["variant"] if several else []), "length", "horizon", "tokens", "turns"):
        table.add_column(name, justify="left" if name == "variant" else "right")
    table.add_column("where the worst decisions are")
    for row in sorted(rows, key=lambda row: row["variant"]):
        phases = ", ".join(f"{phase} ({count})" for phase, count in list(row["phases"].items())[:3])
        table.add_row(*([row["variant"]] if several else []), f"{row['length']:,}", f"{row['horizon']:,}",
                      f"{row['tokens']:,.0f}", f"{row['turns']:,.0f}", phases)
    shares = ", ".join(f"{kind} {share:.1%}" for kind, share in rows[-1]["shares"].items())
    table.caption = f"at {' '.join(filter(None, (rows[-1]['variant'], format(rows[-1]['length'], ','))))}: {shares}"
    return table


def clash_text(row: dict[str, Any], tokens: int = 12) -> str:
    """The clash of a row in two lines: the last tokens of both contexts and what follows each."""
    if not row["clash"]:
        return ""
    lines = []
    for context, following, phase in zip(*(row["clash"][k] for k in ("contexts", "following", "phases")), strict=True):
        lines.append(f"  ... {' '.join(context.split()[-tokens:])} -> {following}   ({phase})")
    return "\n".join(lines)
