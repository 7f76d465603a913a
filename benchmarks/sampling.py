"""Whether rollouts draw tokens with the softmax's probabilities, also those of 0 and of one in a million.

    python benchmarks/sampling.py                  # on a GPU with its kernel; 10^8 draws
    python benchmarks/sampling.py --device cpu     # by torch's operations; about 2 minutes

A model whose logits never change is rolled out by the engine itself, many rows side by side, each with a seed of its
own. Counted is what is in the rows. A token of probability 0 must not come up once; how often each other one does is
held against the binomial distribution (Poisson's, where it is rare), and all of them together by Pearson's chi-square
test. Prints a table and writes results/benchmarks/sampling_cuda.json, or sampling_cpu.json.
"""

import math
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from length_gen.datamodules.tokens import END
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones import Backbone
from length_gen.lightning_modules.decoding.batched_rollout import Rows
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.reporting.measurements import Records, arguments
from length_gen.tools import EDGE, PointerMemory

IMPOSSIBLE, RARE = 4, 4
"""Tokens of probability 0, the end among them, and of 10^-6."""
LEAST = 1e-4
"""Of a test's p-values: with 13 of them, all are above it in 999 of 1,000 runs of a sampler that is right."""


class Fixed(Backbone):
    """Always the same logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(len(logits))
        self.logits = nn.Parameter(logits, requires_grad=False)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.logits.new_zeros(batch_size)

    def forward(self, tokens: Tensor, state: Tensor | None = None, return_state: bool = True) -> tuple[Tensor, Tensor]:
        return self.logits.expand(*tokens.shape, -1), self.initial_state(len(tokens)) if state is None else state

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(tokens), -1), state


def probabilities() -> Tensor:
    """Float64 [16]: some of 0, some of 10^-6, and the others between 1/2 and 1/256."""
    usual = 2.0 ** -torch.arange(1, 9, dtype=torch.float64)
    usual *= (1 - RARE * 1e-6) / usual.sum()
    return torch.cat([torch.zeros(IMPOSSIBLE), torch.full((RARE,), 1e-6, dtype=torch.float64), usual])


@torch.inference_mode()
def drawn(chances: Tensor, draws: int, temperature: float, device: torch.device, rows: int, length: int = 256,
          seed: int = 0) -> Tensor:
    """How often each token comes up, int64 [V], in at least so many draws."""
    vocabulary = Vocabulary([END, EDGE, *(f"t{i}" for i in range(len(chances) - 2))])
    model = Fixed((temperature * chances.log()).float()).to(device)
    engine = Rows(model, vocabulary, PointerMemory(1), rows, length, Decoding("device", temperature=temperature))
    generator, total = random.Random(seed), torch.zeros(len(chances), dtype=torch.long, device=device)
    prompt, places = np.array([2]), torch.arange(1, length, device=device)
    while int(total.sum()) < draws:
        engine.start(range(rows), [prompt] * rows, [length] * rows, [generator.getrandbits(32) for _ in range(rows)])
        engine.run(length - 1)
        engine.finish()
        engine.looks.clear()
        there = places < engine.count[:, None]
        total += torch.bincount(engine.log[:, 1:][there].long(), minlength=len(chances))
    return total.cpu()


def p_value(count: int, draws: int, chance: float) -> float:
    """Two-sided, of a binomial count: by the normal distribution, or by Poisson's where it is rare."""
    expected = chance * draws
    if not chance:
        return float(not count)
    if expected > 1e4:
        return math.erfc(abs(count - expected) / math.sqrt(2 * expected * (1 - chance)))
    at_most = _gamma(torch.special.gammaincc, count + 1, expected)
    at_least = _gamma(torch.special.gammainc, count, expected) if count else 1.0
    return min(1.0, 2 * min(at_most, at_least))


def _gamma(function: Callable, shape: float, place: float) -> float:
    return float(function(torch.tensor(shape).double(), torch.tensor(place).double()))


def main() -> None:
    """Draw, test, and exit with an error where a frequency is wrong."""
    options = arguments(__doc__, lambda options: f"sampling_{options.device}", draws=10**8, temperature=0.7, rows=4096,
                        device="cuda" if torch.cuda.is_available() else "cpu")
    device, chances, begun = torch.device(options.device), probabilities(), time.time()
    counts = drawn(chances, options.draws, options.temperature, device, options.rows)
    draws, seconds = int(counts.sum()), time.time() - begun
    records = Records(options.out, device, draws=draws, temperature=options.temperature, seconds=round(seconds, 1))
    for chance, count in zip(chances.tolist(), counts.tolist(), strict=True):
        records.add({"what": f"a token of probability {chance:.3g}", "probability": chance,
                     "expected": chance * draws, "drawn": count, "p_value": p_value(count, draws, chance)})
    possible = chances > 0
    square = float(((counts - chances * draws) ** 2 / (chances * draws))[possible].sum())
    freedom = int(possible.sum()) - 1
    records.add({"what": f"chi-square of {freedom} degrees of freedom", "chi_square": square,
                 "p_value": _gamma(torch.special.gammaincc, freedom / 2, square / 2)})
    records.show()
    if wrong := [record["what"] for record in records if record["p_value"] < LEAST]:
        raise SystemExit(f"not the softmax's frequencies: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
