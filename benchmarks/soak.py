"""Long soak: training on the stream, rollouts and verification in one process; memory and speed must be flat.

    python benchmarks/soak.py --minutes 120

Each round takes the next rows of the stream of a mixture of tasks and trains a small Mamba on them, rolls problems out
with the real tools (a model that small writes much nonsense, which is harder on the tools than right answers), and
verifies others. Speeds are tokens per second of this process's own CPU time, so that other processes on the machine
disturb them less. Writes results/benchmarks/soak.json and docs/figures/soak.svg.
"""

import functools
import gc
import time
from collections import Counter
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Addition, HanoiIterative, LogicalGraph, Mixture, Multiplication, Sort
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.evaluation.plots import COLOURS, save_figure
from length_gen.lightning_modules.evaluation.verify import verify
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.reporting.measurements import Records, arguments

PARTS = ("train", "rollout", "verify")


class Soak:
    """The process under test; `round` does a little of everything and adds up tokens and CPU seconds of each part."""

    def __init__(self, seed: int = 0, batch_size: int = 4) -> None:
        torch.manual_seed(seed)
        self.task = Mixture([Addition(5), Multiplication(5), LogicalGraph(6), HanoiIterative(4), Sort(6)])
        self.data = TrajectoryDataModule(self.task, batch_size=batch_size, row_length=1280, seed=seed)
        backbone = functools.partial(Mamba, n_layer=2, d_model=32, dt_min=0.1, dt_max=1.0)
        self.model = TrajectoryModel(backbone, self.data.vocabulary)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.batches, self.rounds = iter(self.data.train_dataloader()), 0
        self.tokens, self.seconds = Counter(), Counter()

    def round(self) -> None:
        """Do each part once."""
        for part in PARTS:
            begun = time.process_time()
            self.tokens[part] += getattr(self, part)()
            self.seconds[part] += time.process_time() - begun
        self.rounds += 1

    def train(self, steps: int = 2) -> int:
        """Train on the stream's next batches; returns their tokens, padding included."""
        self.model.train()
        tokens = 0
        for _ in range(steps):
            batch = next(self.batches)
            self.optimizer.zero_grad()
            self.model.losses(batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            tokens += batch["tokens"].numel()
        return tokens

    def problems(self, count: int):
        """Problems that no round before had, of every task, and their reference trajectories."""
        self.model.eval()
        for i in range(count):
            variant = self.task.variants[i % len(self.task.variants)]
            problem = self.data.problem("validation", 4 + self.rounds % 4, self.rounds * count + i, variant)
            yield problem, self.task.record(problem)

    def rollout(self, rows: int = 10) -> int:
        """Roll new problems out; returns the tokens of the rows."""
        problems = [(problem, min(budget(reference), 1500)) for problem, reference in self.problems(rows)]
        done = rollout(self.model.backbone, self.data.vocabulary, self.task, problems, batch_size=rows)
        return sum(len(row.tokens) for row in done)

    def verify(self, rows: int = 10) -> int:
        """Verify new problems; returns the tokens of their trajectories."""
        references = [reference for _, reference in self.problems(rows)]
        return sum(outcome.tokens for outcome in verify(self.model.backbone, self.data.vocabulary, references))


def resident() -> float:
    """Memory of this process, MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def change(values: list[float]) -> float:
    """Median of the last quarter over that of the second, less 1: what grew or slowed after the start."""
    quarter = max(1, len(values) // 4)
    return median(values[-quarter:]) / median(values[quarter : 2 * quarter] or values[:1]) - 1


def main() -> None:
    """Go round until the time is up, and sample memory and speed."""
    options = arguments(__doc__, "soak", minutes=120.0, samples=(24, "how often memory and speed are read"), seed=0,
                        figure="docs/figures/soak.svg")
    torch.set_num_threads(1)
    soak, begun, records = Soak(options.seed), time.monotonic(), Records(options.out, seed=options.seed)
    while len(records) < options.samples:
        soak.tokens.clear(), soak.seconds.clear()
        until = begun + 60 * options.minutes * (len(records) + 1) / options.samples
        while time.monotonic() < until or not soak.tokens:
            soak.round()
        gc.collect()
        row = {"minutes": round((time.monotonic() - begun) / 60, 2), "rounds": soak.rounds,
               "resident MiB": round(resident(), 1), "objects": len(gc.get_objects()),
               **{f"{part}, tokens/s": round(soak.tokens[part] / soak.seconds[part]) for part in PARTS}}
        drift = {name: round(change([other[name] for other in [*records, row]]), 4) for name in list(row)[2:]}
        records.add(row, minutes=row["minutes"], change=drift)
    records.show()
    print("last quarter against the second:", ", ".join(f"{name} {value:+.1%}" for name, value in drift.items()))
    save_figure(soak_figure(records, options.seed), options.figure)


def soak_figure(rows: list[dict], seed: int = 0) -> Figure:
    """Memory, and the speed of every part against its median, over time; the title says how both changed."""
    figure = Figure(figsize=(4.4, 4.0), dpi=200, layout="constrained")
    memory, speed = figure.subplots(2, 1, sharex=True)
    slower = max(-change([row[f"{part}, tokens/s"] for row in rows]) for part in PARTS)
    figure.suptitle(f"After a quarter of {rows[-1]['minutes']:.0f} minutes: memory "
                    f"{change([row['resident MiB'] for row in rows]):+.1%},\nspeed {-slower:+.1%} where it fell most",
                    x=0.015, ha="left", fontsize=11)  # fmt: skip
    memory.set_title(f"one run, so no interval: seed {seed}, {rows[-1]['rounds']:,} rounds, {len(rows)} samples;\n"
                     "median of the last quarter against that of the second", loc="left", fontsize=8, color="0.35",
                     x=0, pad=6)  # fmt: skip
    minutes = [row["minutes"] for row in rows]
    memory.plot(minutes, [row["resident MiB"] for row in rows], color=COLOURS[0], marker="o", markersize=3)
    memory.set_ylim(0, 1.25 * max(row["resident MiB"] for row in rows))
    memory.set_ylabel("memory (MiB)")
    for colour, part in zip(COLOURS, PARTS, strict=False):
        values = [row[f"{part}, tokens/s"] for row in rows]
        speed.plot(minutes, [value / median(values) for value in values], color=colour, marker="o", markersize=3,
                   label=f"{part} ({median(values):,.0f} tokens/s)")  # fmt: skip
    speed.set_ylim(0, 1.5)
    speed.set_ylabel("speed / median")
    speed.set_xlabel("minutes")
    speed.legend(frameon=False, fontsize=8, loc="lower left")
    for axes in (memory, speed):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
