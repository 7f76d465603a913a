"""Interactive rollouts: the model writes, the real tool answers, until the end token or the budget.

`rollout` solves many problems, a row (`datamodules.rollout.Rollout`) each: on the device where `Decoding` and the tool
allow it (batched_rollout.py), else on the host, which asks each row's tool token by token, and lets the model take in
one pass what is known to come (prompts, observations), or is drafted (drafting.py).
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count, repeat

import numpy as np
import torch

from length_gen.datamodules.rollout import Rollout
from length_gen.datamodules.tasks import Problem, Task
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone, select_rows
from length_gen.lightning_modules.backbones.decoder import StepDecoder, capture, device_guard
from length_gen.lightning_modules.decoding.batched_rollout import batched_rollout
from length_gen.lightning_modules.decoding.drafting import Draft, DraftedRollout, certain
from length_gen.lightning_modules.decoding.prefill import PrefillPlan
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.tools import UserError

TELL = 64
"""Steps between two times that the host tells how far it is."""


class _Stepper:
    """Greedy steps of a batch of rows on the host's command; on CUDA replayed from a graph."""

    def __init__(self, backbone: Backbone, rows: int, length: int, decoding: Decoding) -> None:
        self.device = next(backbone.parameters()).device
        self.decoder = backbone.decoder(rows, length, *decoding.types(backbone))
        self.tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.graph = capture(self._step) if self.device.type == "cuda" and backbone.capturable else None
        self.plan = PrefillPlan(backbone, length, 16 if self.graph else 2)

    def _step(self) -> None:
        self.predicted = self.decoder.step(self.tokens).argmax(-1)

    def __call__(self, tokens: Sequence[int]) -> list[int]:
        self.tokens.copy_(torch.tensor(tokens))
        if self.graph:
            self.graph.replay()
        else:
            self._step()
        return self.predicted.tolist()

    def reset(self, rows: Sequence[int]) -> None:
        """Give rows the initial state."""
        self.decoder.reset(torch.tensor(rows, device=self.device))

    def prefill(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Let rows take tokens at once, each as many as the others; what they predict is not asked for."""
        self.plan.take(self.decoder, torch.tensor(rows, device=self.device), torch.tensor(tokens, device=self.device))

    def check(self, rows: Sequence[int], tokens: np.ndarray, take: Callable[[list[list[bool]]], list[int]]) -> None:
        """Let rows take as many of tokens, int64 [k, T + 1], but the last, as `take` says, told where the next is
        certain."""
        where, tokens = torch.tensor(rows, device=self.device), torch.from_numpy(tokens).to(self.device)
        try:
            logits, state = self.decoder.look_ahead(where, tokens[:, :-1])
        except torch.OutOfMemoryError:
            self.plan.most = max(1, tokens.numel() // 2)  # nothing was taken
            return
        taken = take(certain(logits, tokens[:, 1:]).tolist())
        whole = [i for i, count in enumerate(taken) if count == tokens.shape[1] - 1]
        if whole:
            chosen = torch.tensor(whole, device=self.device)
            self.decoder.set_state(where[chosen], select_rows(state, chosen))
        for i, some in enumerate(taken):
            if 0 < some < tokens.shape[1] - 1:
                self.decoder.prefill(where[i : i + 1], tokens[i : i + 1, :some])

    def keep(self, rows: Sequence[int]) -> bool:
        """Drop all other rows, where shapes may change (not in a graph); tells whether it did."""
        if self.graph or not isinstance(self.decoder, StepDecoder):
            return False
        self.decoder.keep(torch.tensor(rows, device=self.device))
        self.tokens = self.tokens[: len(rows)]
        return True


@torch.inference_mode()
def rollout(backbone: Backbone, vocabulary: Vocabulary, task: Task, problems: Iterable[tuple[Problem, int]],
            batch_size: int = 64, decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
            progress: Callable[[int], None] = lambda tokens: None,
            drafts: Iterable[Sequence[str] | None] = repeat(None)) -> list[Rollout]:
    """Solve problems interactively; each comes with its budget, the most tokens that its row may have.

    progress: called now and then with how many more tokens the rows have
    drafts:   of each row what it is likely to say, its prompt included, or None; it is taken where `decoding` has it

    Rows end on their own and are refilled from `problems`; the result is in the order of `problems`. Nothing that the
    model writes raises: a row that cannot go on ends with a reason. A draft changes nothing but the time that it takes.
    """
    drafting = decoding.drafting(backbone)
    rows = [DraftedRollout(problem, budget, task.tool(problem), task.shown(problem),
                           draft=Draft(draft) if draft is not None and drafting else None)
            for (problem, budget), draft in zip(problems, drafts, strict=False)]
    if not rows:
        return []
    batched = decoding.batched(backbone, [row.tool for row in rows])
    if decoding.temperature and not batched:
        raise UserError(f"temperature {decoding.temperature} needs tools of one token a call, and engine auto or "
                        f"device")
    with device_guard(next(backbone.parameters()).device):
        (_on_device if batched else _on_host)(backbone, vocabulary, rows, batch_size, decoding, progress)
    return rows


def _on_device(backbone: Backbone, vocabulary: Vocabulary, everything: Sequence[Rollout], batch_size: int,
               decoding: Decoding, progress: Callable[[int], None]) -> None:
    # What is drawn depends on the seed and the problem alone, not on the place in the batch or the rank.
    problems = [(row.problem.prompt, row.prompt, row.budget,
                 random.Random(f"{decoding.seed}/{row.problem.variant}/{row.problem.prompt}").getrandbits(32)
                 if decoding.temperature else 0) for row in everything]
    for index, reason, tokens, kinds in batched_rollout(backbone, vocabulary, everything[0].tool, problems, batch_size,
                                                        decoding):
        row = everything[index]
        row.engine, row.reason, row.tokens, row.kinds = "device", reason, tokens, kinds
        progress(len(tokens))
        if reason == "invalid_command":  # the scalar tool can say why
            again = Rollout(row.problem, row.budget + 1, row.tool, row.prompt)
            for token in row.tokens:
                again.advance(token)
            row.detail = again.detail


def _on_host(backbone: Backbone, vocabulary: Vocabulary, everything: Sequence[DraftedRollout], batch_size: int,
             decoding: Decoding, progress: Callable[[int], None]) -> None:
    queue = deque(everything)
    rows: list[DraftedRollout | None] = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
    stepper = _Stepper(backbone, len(rows), max(row.budget for row in everything), decoding)
    names, ids = vocabulary.tokens, vocabulary.id
    for row in everything:
        row.draft = row.draft if stepper.decoder.prefills else None
        row.engine = "draft" if row.draft else "host"
    stepper.reset(range(len(rows)))  # capturing a graph leaves traces
    inputs = [ids(row.advance("")) for row in rows]
    waited = 0  # steps, of single rows, on tokens that were known before
    told = 0  # tokens
    for step in count():
        if step % TELL == 0:
            done = sum(len(row.tokens) for row in everything)
            progress(done - told)
            told = done
        known = [row.known if row else 0 for row in rows] if stepper.decoder.prefills else []
        if any(known):
            waited += sum(map(bool, known))
            enough = stepper.plan.price * len(rows)
            if waited >= enough or all(n or not row for n, row in zip(known, rows, strict=True)):
                waited = 0
                _pass_over(stepper, vocabulary, rows, inputs, known)
        predicted = stepper(inputs)
        ended = []
        for i, row in enumerate(rows):
            if row is not None:
                if not row.reason:
                    inputs[i] = ids(row.advance(names[predicted[i]]))
                if row.reason:
                    ended.append(i)
        for i in ended:
            rows[i] = queue.popleft() if queue else None
            if rows[i] is not None:
                stepper.reset([i])
                inputs[i] = ids(rows[i].advance(""))
        if ended and None in rows:
            kept = [i for i, row in enumerate(rows) if row is not None]
            if not kept:
                return
            if stepper.keep(kept):
                rows, inputs = [rows[i] for i in kept], [inputs[i] for i in kept]


def _pass_over(stepper: _Stepper, vocabulary: Vocabulary, rows: Sequence[DraftedRollout | None], inputs: list[int],
               known: Sequence[int]) -> None:
    """Take known tokens (prompts, observations, drafts) in passes over many of them, while a pass saves more than it
    costs.

    A row that waits for a pass goes on by steps, so that nothing is lost where none is ever worth it. The caller waits
    until the rows that could have saved steps have lost as many as a pass costs, or all of them could: so the passes
    are shared by more rows the more often there are observations.
    """
    stopped: set[int] = set()  # rows that did not take all that they were thought to
    for chosen, length in stepper.plan.passes(known, len(rows)):
        chosen = [i for i in chosen if i not in stopped]
        likely = {i: rows[i].ahead(length) for i in chosen}
        tokens = [[[inputs[i]], vocabulary.encode(said)] for i, said in likely.items()]
        tokens = np.stack(list(map(np.concatenate, tokens))).astype(np.int64) if chosen else np.empty(0)

        def take(certain: Sequence[Sequence[bool]], chosen=chosen, likely=likely, length=length) -> list[int]:
            taken = [rows[i].take(likely[i], sure) for i, sure in zip(chosen, certain, strict=True)]
            stopped.update(i for i, count in zip(chosen, taken, strict=True) if count < length or not rows[i].goes_on)
            return taken

        if any(rows[i].forced < length for i in chosen):
            stepper.check(chosen, tokens, take)
        elif chosen:
            take([(True,) * length] * len(chosen))
            stepper.prefill(chosen, tokens[:, :-1])
        for i in chosen:
            inputs[i] = vocabulary.id(rows[i].tokens[-1])
