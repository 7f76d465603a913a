"""Rollouts of models that write nonsense: nothing may crash, hang, grow, or touch a neighbouring row.

    python benchmarks/hostile.py --tokens 10000000

Every task and setting is rolled out with every kind of nonsense (see `KINDS`), many rows side by side, and some rows
are rolled out again alone: they must be the same. Prints a table and writes results/benchmarks/hostile.json.
"""

import itertools
import random
import resource
import time
import tracemalloc
from collections import Counter

import torch
from torch import Tensor, nn

from length_gen.datamodules.rollout import Rollout
from length_gen.datamodules.tasks import Addition, Copy, HanoiIterative, LogicalGraph, Multiplication, ToolTask, Turing
from length_gen.datamodules.tokens import END
from length_gen.lightning_modules.backbones import Backbone
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.reporting.measurements import Records, arguments
from length_gen.tools.base import bare

KINDS = ("uniform", "commands", "thoughts", "left", "right", "searches", "end")
"""Any token; only commands; only what is no command; runs to either end; searches for the most frequent; the end."""

ROW_BYTES = 512
"""Most memory of a row, its tool's included, for each token of its prompt and budget."""

SEARCHES = ("find", "[OBSERVATION]", "=", "\n", "[CALL]", "[RETURN]")

TASKS = (Addition(5), Multiplication(5, "paper"), Addition(5, "beacons_8"), Copy(5, setting="no_tool"),
         Copy(5, setting="single_turn"), LogicalGraph(6), HanoiIterative(3), Turing("add", 5))


class Nonsense(Backbone):
    """Writes pseudo-random tokens out of a list: each is a hash of the row's own tokens so far."""

    def __init__(self, vocab_size: int, allowed: list[int], seed: int = 0) -> None:
        super().__init__(vocab_size)
        self.seed = nn.Parameter(torch.tensor(float(seed)), requires_grad=False)
        self.register_buffer("allowed", torch.tensor(allowed))

    def initial_state(self, batch_size: int) -> Tensor:
        return torch.full((batch_size,), int(self.seed) + 12345, dtype=torch.long)

    def forward(self, tokens: Tensor, state: Tensor | None = None, return_state: bool = True) -> tuple[Tensor, Tensor]:
        logits = []
        state = self.initial_state(len(tokens)) if state is None else state
        for token in tokens.unbind(1):
            row, state = self.step(token, state)
            logits.append(row)
        return torch.stack(logits, 1), state

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = (state * 6364136223846793005 + tokens * 1442695040888963407 + 1013904223) % (2**61 - 1)
        choice = self.allowed[(state >> 20) % len(self.allowed)]
        return nn.functional.one_hot(choice, self.vocab_size).float(), state


def nonsense(task: ToolTask, kind: str, seed: int = 0) -> Nonsense:
    """A model of one of `KINDS` for a task."""
    names = task.vocabulary().tokens
    commands = task.tool().commands
    said = [bare(name) for name in names]
    chosen = {
        "uniform": list(range(len(names))),
        "commands": [i for i, name in enumerate(said) if name in commands],
        "thoughts": [i for i, name in enumerate(said) if name not in commands and name != END],
        "left": [i for i, name in enumerate(said) if name.endswith(("left", "init"))],
        "right": [i for i, name in enumerate(said) if name.endswith(("right", "init"))],
        "searches": [i for i, name in enumerate(said) if name in SEARCHES],
        "end": [names.index(END)],
    }[kind]
    return Nonsense(len(names), chosen or list(range(len(names))), seed)


def storm(task: ToolTask, kind: str, rows: int, budget: int, seed: int = 0, again: int = 2) -> tuple[int, Counter]:
    """Roll `rows` problems out, some of them again alone; returns tokens written and the reasons for ending.

    Raises AssertionError if a row is not what it is alone, or has more tokens than its budget.
    """
    model, rng = nonsense(task, kind, seed), random.Random(seed)
    problems = [(task.problem("validation", seed, rng.randint(task.shortest, 8 if task.longest else 12), i,
                              task.variants[0]), rng.randint(budget // 2, budget)) for i in range(rows)]
    together = rollout(model, task.vocabulary(), task, problems, batch_size=max(2, rows // 2))
    for row, (problem, most) in zip(together, problems, strict=True):
        assert len(row.tokens) <= max(most, len(problem.prompt)), (task.name, kind, len(row.tokens), most)
        assert row.reason in ("end", "budget", "invalid_command"), (task.name, kind, row.reason, row.detail)
    for index in rng.sample(range(rows), min(again, rows)):
        alone, = rollout(model, task.vocabulary(), task, [problems[index]])
        same = alone.tokens == together[index].tokens and alone.reason == together[index].reason
        assert same, (task.name, kind, index)
    return sum(len(row.tokens) for row in together), Counter(row.reason for row in together)


def row_memory(task: ToolTask, kind: str, budget: int, seed: int = 0) -> float:
    """Bytes of a row and its tool at their peak, a token of its prompt and budget; raises AssertionError beyond
    `ROW_BYTES`."""
    rng, names = random.Random(seed), task.vocabulary().tokens
    allowed = [names[i] for i in nonsense(task, kind).allowed.tolist()]
    problem = task.problem("validation", seed, task.max_length, 0, task.variants[0])
    tracemalloc.start()
    row = Rollout(problem, budget, task.tool())
    while not row.reason:
        row.advance(rng.choice(allowed))
    used = tracemalloc.get_traced_memory()[1] / (len(problem.prompt) + budget)
    tracemalloc.stop()
    assert used <= ROW_BYTES, (task.name, kind, used)
    return used


def main() -> None:
    """Roll out nonsense until enough tokens are written, and measure the memory of a row."""
    options = arguments(
        __doc__, "hostile", tokens=(10_000_000, "to write in all"), rows=64, budget=(4000, "tokens of a row"),
        again=(8, "rows of every storm that are rolled out again alone"))
    totals: dict[tuple[ToolTask, str], Counter] = {}
    done, seed, begun = 0, 0, time.time()
    memory = []
    while done < options.tokens:
        for task, kind in itertools.product(TASKS, KINDS):
            tokens, reasons = storm(task, kind, options.rows, options.budget, seed, options.again)
            done += tokens
            totals.setdefault((task, kind), Counter()).update({"tokens": tokens, **reasons})
        seed += 1
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        print(f"{done:,} tokens, {time.time() - begun:.0f} s, {memory[-1]:,} MiB at most", flush=True)
    records = Records(options.out, tokens=done, seconds=time.time() - begun, peak_mib_by_round=memory)
    for (task, kind), counts in totals.items():
        records.add({"what": f"{task.name}, {task.setting}, {kind}", "tokens": counts.pop("tokens"),
                     "bytes/token of a row": round(row_memory(task, kind, options.budget)), **counts})
    records.show()


if __name__ == "__main__":
    main()
