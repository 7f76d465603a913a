"""Where a Mamba holds the phase, how fast it fades, and the length at which it will be lost, foretold by short walks.

    python benchmarks/latch.py --runs runs/add/version_0 runs/add/version_1

Addition in style paper asks for one bit from far back. At the `=` where the answer is being looked for the pointer
walks on; at the `=` where the question's end was looked for the addition begins; and the 3 n tokens before, the walk
over the second operand, are the same. So the states before the two `=` of one trajectory, *answer* and *equals*, differ
by the phase (and by what fades). Of each run, averaged over problems of n and n digits:

    answer, equals: the fewest digits at which the command that is due there is no longer the likelier of `p2.right` and
                    `p1.left`; *lost*: the lesser of the two, at *side*
    foretold:       the same, from states after walks of `short` digits alone: of the difference between the two each
                    entry of h is multiplied by exp(-rate x further tokens), its own rate being |A| times the mean step
                    size on the walk's tokens (Gu and Dao 2023, eq. 4), so that the one becomes the other; the last
                    tokens are then read. Which of the two becomes the other it does not tell
    swapped:        margin of `p2.right` in `answer` at `short` digits where one layer's state is the one of `equals`,
                    by layer: negative if it holds the bit
    slowest:        the longest time constants, tokens (1 / rate), of each layer
    held by:        the largest of some time constants such that this margin is positive if only entries with longer
                    ones are those of `answer`

Writes results/theory/latch.json.
"""

import math
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from length_gen.datamodules.tasks import Addition, Problem
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.evaluation.diagnostics import mixer_inputs
from length_gen.lightning_modules.reporting.measurements import Records, arguments
from length_gen.lightning_modules.runs.load import Run, load_run
from length_gen.tools.files import read_yaml

LAST = 9
"""Tokens of the walk that are read after a state was changed: more than the convolutions of some layers see."""

CONSTANTS = (5, 7, 10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320, 640, 1280, 2560, 5120, 10240, 20480)
"""Time constants that are tried, tokens."""

State = list[tuple[Tensor, Tensor]]


def main() -> None:
    """Measure each run."""
    options = arguments(__doc__, "results/theory/latch", runs=[str], problems=(4, "of each number of digits"),
                        short=(8, "digits of the walks that forecast"),
                        digits=[5, 8, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000])
    records = Records(options.out, settings={k: v for k, v in vars(options).items() if k != "runs"})
    for folder in options.runs:
        run = load_run(folder)
        row = measure(run, options.short, options.digits, options.problems)
        settings = read_yaml(run.folder / "config.yaml")
        start = settings["model"]["backbone"]["init_args"]
        records.add({"seed": settings["seed_everything"], "trained up to": run.task.max_length,
                     "step sizes at the start": f"{start['dt_min']:g} to {start['dt_max']:g}"} | row)
    records.show()


@torch.inference_mode()
def measure(run: Run, short: int, digits: Sequence[int], problems: int) -> dict:
    """What the head of this file says, of one run."""
    if not isinstance(run.backbone, Mamba) or not isinstance(run.task, Addition) or run.task.style != "paper":
        raise SystemExit(f"{run.folder}: expected a Mamba that adds in style paper")
    if min(short, *digits) < LAST / 3:
        raise SystemExit(f"{min(short, *digits)} digits are too few: expected {LAST // 3} or more")
    walks = {n: [Walk(run, n, number) for number in range(problems)] for n in {short, *digits}}
    layers = range(len(walks[short][0].answer))
    row: dict = {"backbone": run.backbone.description}
    for side, sign in (("answer", 1), ("equals", -1)):
        margins = {n: mean(sign * walk.margin(getattr(walk, side)) for walk in walks[n]) for n in digits}
        foretold = {n: mean(sign * walk.margin(walk.faded(side, 3 * (n - short))) for walk in walks[short])
                    for n in digits if n >= short}
        row |= {side: lost(margins), f"{side} foretold": lost(foretold), f"{side} margins": margins,
                f"{side} margins foretold": foretold}
    side = min(("answer", "equals"), key=lambda side: row[side] or math.inf)
    return row | {
        "side": side, "lost": row[side], "foretold": row[f"{side} foretold"],
        "swapped": [mean(walk.margin([walk.equals[j] if j == i else own for j, own in enumerate(walk.answer)])
                         for walk in walks[short]) for i in layers],
        "slowest": [round(float(1 / walks[short][0].rates[i].min())) for i in layers],
        "held by": max((constant for constant in CONSTANTS if mean(
            walk.margin(walk.slower(constant)) for walk in walks[short]) > 0), default=None)}


def lost(margins: dict[int, float]) -> int | None:
    """The fewest digits with a negative margin."""
    return min((n for n, margin in margins.items() if margin < 0), default=None)


def mean(values: Iterator[float]) -> float:
    """The mean of numbers."""
    found = list(values)
    return sum(found) / len(found)


class Walk:
    """One trajectory's two walks over the second operand, of n digits.

    answer, equals: the states of all layers LAST tokens before, a pair of the convolution's inputs and h each
    rates:          of each layer, float32 [D, N], a token of the walk
    """

    def __init__(self, run: Run, n: int, number: int) -> None:
        rng = random.Random(f"latch/{n}/{number}")
        left, right = ("".join(rng.choice("123456789") for _ in range(n)) for _ in range(2))
        problem: Problem = run.task.parse(f"{left}+{right}=")
        trajectory = run.task.record(problem)
        starts = {name: position for position, name in trajectory.phases}
        ends = [trajectory.tokens.index("=", starts[phase]) for phase in ("find_equals", "find_answer")]
        self.run, (equals, answer) = run, ends
        ids = torch.from_numpy(run.vocabulary.encode(trajectory.tokens)).long()[None]
        self.last = ids[:, answer - LAST + 1: answer + 1]
        self.equals = run.backbone(ids[:, : equals - LAST + 1])[1]
        with mixer_inputs(run.backbone) as seen:
            self.answer = run.backbone(ids[:, : answer - LAST + 1])[1]
        self.rates = [mixer.step_sizes(hidden)[0, answer - 3 * n:].mean(0)[:, None].float() * mixer.A_log.float().exp()
                      for mixer, hidden in seen.values()]
        self.right, self.wrong = run.vocabulary.encode(["p2.right", "p1.left"])

    def faded(self, side: str, tokens: int) -> State:
        """The state of `answer` or `equals` after so many further tokens, if what tells the two apart only fades."""
        pair = self.answer, self.equals
        return [(inputs, other + (own - other) * torch.exp(-rate * tokens))
                for (_, own), (inputs, other), rate in zip(*(pair if side == "answer" else pair[::-1]), self.rates,
                                                           strict=True)]

    def slower(self, constant: float) -> State:
        """The state of `equals`, but for the entries of h with longer time constants, which are those of `answer`."""
        return [(inputs, torch.where(rate * constant < 1, own, other))
                for (_, own), (inputs, other), rate in zip(self.answer, self.equals, self.rates, strict=True)]

    def margin(self, state: State) -> float:
        """The logit of `p2.right` less that of `p1.left`, when the last tokens are read from this state."""
        logits = self.run.backbone(self.last, [tuple(part.clone() for part in layer) for layer in state])[0][0, -1]
        return float(logits[self.right] - logits[self.wrong])


if __name__ == "__main__":
    main()
