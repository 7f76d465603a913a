"""Does reinforcement learning after imitation extend the reach? A model goes on from trajectories to rewards.

    python run.py fit --config configs/add.yaml --data.task.style paper --evaluation.evaluators [verify]
    python benchmarks/reinforce.py --runs runs/add/version_0

Of each run, from its weights: `reward` is a policy gradient (Williams 1992) on problems up to `longest`, some samples
of each at temperature 1 with the real tool, reward 1 for the right answer and 0 for any other end, less the mean of the
problem's samples (Shao et al. 2024, arXiv 2402.03300, without its division by their deviation: Liu et al. 2025, arXiv
2503.20783). `imitation` takes as many steps of as many tokens on reference trajectories, no longer than those that the
run was trained on. Both with AdamW and one learning rate; the weights of the last step are evaluated greedily with the
real tool, on test problems, which nothing was chosen by. Writes results/benchmarks/reinforce.json.
"""

import copy
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Problem, Task
from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.decoding.batched_rollout import batched_rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.model import IGNORED, masked_targets
from length_gen.lightning_modules.reporting.measurements import Records, arguments
from length_gen.lightning_modules.runs.load import Run, load_run
from length_gen.tools.files import read_yaml


def main() -> None:
    """Evaluate each run as it is, after rewards, and after as much imitation."""
    options = arguments(
        __doc__, "reinforce", runs=[str], lengths=[5, 10, 20, 30, 50, 100, 200],
        problems=(32, "of each length and variant, to evaluate"), longest=(20, "longest problems that are rewarded"),
        steps=(80, "updates"), asked=(8, "problems of an update"), samples=(8, "of each problem"),
        learning_rate=3e-4, seed=(0, "of what is asked and drawn"))
    records = Records(options.out, settings={name: value for name, value in vars(options).items() if name != "runs"})
    for folder in options.runs:
        run = load_run(folder)
        seed = read_yaml(run.folder / "config.yaml").get("seed_everything")
        start, sizes = copy.deepcopy(run.backbone.state_dict()), []

        def measure(arm: str, run=run, seed=seed, **facts) -> None:
            for record in run.evaluate(options.lengths, options.problems):
                records.add({"task": run.task.name, "style": run.task.style, "backbone": run.backbone.description,
                             "seed": seed, "after": arm, **facts, "variant": record["variant"],
                             "length": record["length"], "problems": record["problems"],
                             "answers": record["answer_accuracy"], "exact": record["exact_match"]})

        measure("nothing")
        rewards = list(reinforced(run, options, sizes))
        fifth = max(1, len(rewards) // 5)
        measure("reward", **{"reward at first": float(np.mean(rewards[:fifth])),
                             "reward at last": float(np.mean(rewards[-fifth:]))})
        run.backbone.load_state_dict(start)
        imitated(run, options, sizes)
        measure("imitation")
    records.show()


def reinforced(run: Run, options, sizes: list[int]) -> Iterator[float]:
    """Train by rewards; yields each update's mean reward, and adds its number of predicted tokens to `sizes`."""
    rng, optimizer = random.Random(options.seed), optimizer_of(run.backbone, options.learning_rate)
    for step in range(options.steps):
        problems = [run.task.sample(rng, rng.randint(run.task.shortest, options.longest), run.task.variants[0])
                    for _ in range(options.asked)]
        rows, rewards = [], []
        for tokens, kinds, reward in sampled(run, problems, options.samples, f"{options.seed}/{step}"):
            rows.append((tokens, kinds))
            rewards.append(reward)
        advantages = torch.tensor(rewards).view(len(problems), -1)
        advantages = (advantages - advantages.mean(1, keepdim=True)).flatten()
        sizes.append(update(run.backbone, optimizer, rows, advantages, run.vocabulary))
        share = float(np.mean(rewards))
        print(f"update {step + 1} of {options.steps}: reward {share:.2f}", end="\r", flush=True)
        yield share


def sampled(run: Run, problems: Sequence[Problem], samples: int,
            seed: str) -> list[tuple[list[str], bytearray, float]]:
    """Tokens, kinds and reward of `samples` rollouts of each problem, one after the other, drawn at temperature 1."""
    task: Task = run.task
    budgets = [budget(reference) for reference in task.references(problems)]
    asked = [(problem.prompt, task.shown(problem), most, random.Random(f"{seed}/{i}/{k}").getrandbits(32))
             for i, (problem, most) in enumerate(zip(problems, budgets, strict=True)) for k in range(samples)]
    found: list = [None] * len(asked)
    run.backbone.eval()
    with torch.inference_mode():
        for index, reason, tokens, kinds in batched_rollout(run.backbone, run.vocabulary, task.tool(problems[0]), asked,
                                                            len(asked), Decoding(temperature=1.0)):
            outputs = tuple(token for token, kind in zip(tokens, kinds, strict=True) if kind == Kind.OUTPUT)
            right = reason == "end" and outputs == task.outputs(problems[index // samples])
            found[index] = tokens, kinds, float(right)
    return found


def update(backbone: Backbone, optimizer: torch.optim.Optimizer, rows: Sequence[tuple[Sequence[str], Sequence[int]]],
           weights: torch.Tensor, vocabulary: Vocabulary) -> int:
    """A step up in the mean over predicted tokens of weight times log-probability; how many tokens were predicted.

    rows: tokens and kinds; weights: float [B], of each row; rows without weight are left out
    """
    chosen = [i for i in range(len(rows)) if weights[i]]
    predicted = sum(predicted_tokens(kinds) for _, kinds in rows)
    backbone.train()
    for part in (chosen[i : i + 16] for i in range(0, len(chosen), 16)):
        tokens, kinds = (pad_sequence(side, batch_first=True, padding_value=padding) for side, padding in (
            ([torch.from_numpy(vocabulary.encode(rows[i][0]).astype(np.int64)) for i in part], 0),
            ([torch.tensor(list(rows[i][1]), dtype=torch.uint8) for i in part], int(Kind.PADDING))))
        logits, _ = backbone(tokens[:, :-1], return_state=False)
        losses = F.cross_entropy(logits.flatten(0, 1), masked_targets(tokens, kinds).flatten(), reduction="none",
                                 ignore_index=IGNORED).view(len(part), -1)
        ((losses.sum(1) * weights[part]).sum() / predicted).backward()
    torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return predicted


def predicted_tokens(kinds: Sequence[int]) -> int:
    """How many of a row's tokens are the model's."""
    return sum(kind in PREDICTED for kind in kinds)


def imitated(run: Run, options, sizes: Sequence[int]) -> None:
    """Train on reference trajectories of training problems, in steps of as many predicted tokens as in `sizes`."""
    rng, optimizer = random.Random(options.seed), optimizer_of(run.backbone, options.learning_rate)
    for size in sizes:
        rows, count = [], 0
        while count < size:
            one = run.task.record(run.task.sample_training(rng))
            rows.append((one.tokens, one.kinds))
            count += predicted_tokens(one.kinds)
        update(run.backbone, optimizer, rows, torch.ones(len(rows)), run.vocabulary)


def optimizer_of(backbone: Backbone, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with the suite's betas, without weight decay."""
    return torch.optim.AdamW(backbone.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)


if __name__ == "__main__":
    main()
