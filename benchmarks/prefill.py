"""Rollouts whose prompts and observations are taken in passes over many tokens, beside the same token by token.

    python benchmarks/prefill.py                       # models of 4 x 256 on the CPU: 9 minutes; on a GPU of 24 x 768

Logical graphs have long prompts and short observations, code bases observations of hundreds of tokens; additions, whose
observations are one token, show that these cost nothing. The model does all of its work but says what the reference
says, so that no training is needed; the tools are the real ones. Every row must be the reference. Prints a table and
writes results/benchmarks/prefill.json, or prefill_cpu.json.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from length_gen.datamodules.collection import Collection, start_collection
from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Addition, CodeFixing, LogicalGraph, Problem, Task
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.trajectory import Trajectory
from length_gen.lightning_modules import backbones
from length_gen.lightning_modules.backbones import Backbone
from length_gen.lightning_modules.decoding.prefill import PrefillPlan
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.reporting.measurements import Records, arguments

FACTOR = 6364136223846793005


class Scripted(Backbone):
    """A model that says what the references say; its own logits are computed, and thrown away.

    State: that of the model, and a hash of each row's tokens so far [B], by which the next token is known.
    """

    def __init__(self, model: Backbone, references: Sequence[np.ndarray]) -> None:
        super().__init__(model.vocab_size)
        self.model, self.capturable = model, model.capturable
        following = {}
        for ids in references:
            code = 0
            for token, after in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
                code = (code * FACTOR + token + 1) % 2**64
                following[code - 2**64 * (code >= 2**63)] = after
        self.register_buffer("keys", torch.tensor(sorted(following)))
        self.register_buffer("after", torch.tensor([following[key] for key in sorted(following)]))

    def initial_state(self, batch_size: int) -> tuple:
        return self.model.initial_state(batch_size), self.keys.new_zeros(batch_size)

    def reserve(self, state: tuple, length: int) -> tuple:
        return self.model.reserve(state[0], length), state[1]

    def forward(self, tokens: Tensor, state: tuple | None = None, return_state: bool = True) -> tuple[Tensor, tuple]:
        state = self.initial_state(len(tokens)) if state is None else state
        _, inner = self.model(tokens, state[0])
        codes = [state[1]]
        for token in tokens.unbind(1):
            codes.append(codes[-1] * FACTOR + token + 1)
        return torch.stack([self._logits(code) for code in codes[1:]], 1), (inner, codes[-1])

    def prefill(self, tokens: Tensor, state: tuple) -> tuple:
        code = state[1]
        for token in tokens.unbind(1):
            code = code * FACTOR + token + 1
        return self.model.prefill(tokens, state[0]), code

    def step(self, tokens: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        _, inner = self.model.step(tokens, state[0])
        code = state[1] * FACTOR + tokens + 1
        return self._logits(code), (inner, code)

    def _logits(self, code: Tensor) -> Tensor:
        place = torch.searchsorted(self.keys, code).clamp(max=len(self.keys) - 1)
        return torch.nn.functional.one_hot(self.after[place], self.vocab_size).float()


def measure(model: Backbone, task: Task, problems: Sequence[Problem], references: Sequence[Trajectory],
            batch: int) -> float:
    """Tokens/s of whole rollouts; raises AssertionError if one is not its reference."""
    begun = time.perf_counter()
    rows = rollout(model, task.vocabulary(), task,
                   [(p, budget(r)) for p, r in zip(problems, references, strict=True)], batch)
    seconds = time.perf_counter() - begun
    assert all(row.tokens == r.tokens for row, r in zip(rows, references, strict=True)), "a row is not the reference"
    return sum(len(row.tokens) for row in rows) / seconds


def main() -> None:
    """Compare passes with steps, on a GPU if there is one."""
    cuda = torch.cuda.is_available()
    options = arguments(
        __doc__, f"prefill{'' if cuda else '_cpu'}", problems=8, batches=[1, 8], backbones=["Mamba", "LSTM"], repeats=2,
        nodes=(100, "of the graphs"), functions=(48, "of the code bases"), digits=(100, "of the sums"),
        unsandboxed=False)
    shape = {"n_layer": 24, "d_model": 768} if cuda else {"n_layer": 4, "d_model": 256}
    device = torch.device("cuda" if cuda else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        collection = Collection(shard_size=8, unsandboxed=options.unsandboxed)
        start_collection(folder, collection)
        collection.shard(folder, 0, 8)  # for the tokenizer
        tasks = [(LogicalGraph(10), options.nodes, "nodes"),
                 (CodeFixing(folder, unsandboxed=options.unsandboxed), options.functions, "functions"),
                 (Addition(5), options.digits, "digits")]
        compare(tasks, shape, device, options)


def compare(tasks: Sequence[tuple[Task, int, str]], shape: dict[str, int], device: torch.device,
            options: argparse.Namespace) -> None:
    """Measure every task, backbone and batch, print and write the rows as they come."""
    records = Records(options.out, device)
    for task, length, unit in tasks:
        problems = [task.problem("test", 0, length, index, task.variants[0]) for index in range(options.problems)]
        references = task.references(problems)
        kinds = np.frombuffer(b"".join(bytes(r.kinds) for r in references), dtype=np.uint8)
        shares = [float((kinds == kind).mean()) for kind in (Kind.PROMPT, Kind.OBSERVATION)]
        scripts = [task.vocabulary().encode(r.tokens) for r in references]
        for name in options.backbones:
            torch.manual_seed(0)
            model = Scripted(getattr(backbones, name)(len(task.vocabulary()), **shape), scripts).to(device).eval()
            for batch in options.batches:
                measure(model, task, problems[:2], references[:2], batch)  # compiles
                ours = other = 0.0
                for _ in range(options.repeats):  # the best of each, since the tools' processes take their time
                    ours = max(ours, measure(model, task, problems, references, batch))
                    with patch.object(PrefillPlan, "passes", lambda *_: ()):
                        other = max(other, measure(model, task, problems, references, batch))
                what = f"{task.name} of {length} {unit}, {model.model.description}, batch {batch}"
                records.add({"what": what, "ours": ours, "alternative": other, "alternative_name": "token by token",
                                "unit": "tokens/s", "ratio": ours / other, "floor": None,
                                "device": records.origin["device"], "tokens": len(kinds) // len(references),
                                "prompt": shares[0], "observation": shares[1]})
    records.show()


if __name__ == "__main__":
    main()
