"""Rollouts without the host in the loop: model, choice of the token, tool and bookkeeping stay on the device.

On CUDA all of a step is one graph, replayed many times between two looks at which rows have ended.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.tokens import ANSWER, END, Kind
from datamodules.vocabulary import Vocabulary
from lightning_modules.backbones.base import Backbone
from lightning_modules.backbones.decoder import capture
from tools import Tool, UserError
from tools.batched import NO_TOKEN, BatchedMemory, Operation, can_batch

ENGINES = ("auto", "device", "host")

REASONS = ("", "end", "budget", "invalid_command")
"""By number, as a row's `reason` has it; the first: it goes on."""
IDLE = len(REASONS)
"""The `reason` of a row without a problem."""
END_REASON, BUDGET, INVALID = 1, 2, 3


MOST_TOKENS = 2**15 - 1
"""Memories and logs on the device hold ids of 16 bits."""

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Decoding:
    """How rollouts are decoded.

    Args:
        engine: `device`: no host between two tokens, for tools of one token a call (pointer memory, tape); `host`: any
            tool, asked token by token; `auto`: the first where it can and there is a GPU (on a CPU, where small tensor
            operations cost more than plain Python, only to draw tokens)
        weights: type of the weights, float32 or bfloat16
        states: type of the states; where a backbone makes no difference between the two, that of the weights counts
        temperature: 0 is greedy; else tokens are drawn from the softmax of the logits over it
        seed: of the draws, from which each problem gets a seed of its own
    """

    engine: str = "auto"
    weights: str = "float32"
    states: str = "float32"
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"unknown engine {self.engine!r}: the engines are {', '.join(ENGINES)}")
        for name in (self.weights, self.states):
            if name not in TYPES:
                raise UserError(f"unknown type {name!r} of weights or states: expected {' or '.join(TYPES)}")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature {self.temperature} is not allowed: expected 0 (greedy) or more")

    def batched(self, backbone: Backbone, tools: Sequence[Tool]) -> bool:
        """Whether rollouts with these tools stay on the device; raises UserError where they were to, but cannot."""
        kinds = {(type(tool), getattr(tool, "pointers", None)) for tool in tools}
        possible = len(kinds) == 1 and can_batch(tools[0]) and backbone.vocab_size <= MOST_TOKENS
        if self.engine == "device" and not possible:
            what = f"no {type(tools[0]).__name__}" if not can_batch(tools[0]) else \
                f"no vocabulary of over {MOST_TOKENS:,} tokens" if len(kinds) == 1 else "one kind of tool at a time"
            raise UserError(f"engine device has {what}: give engine auto or host")
        if self.engine == "auto":
            return possible and (next(backbone.parameters()).is_cuda or self.temperature > 0)
        return self.engine == "device"


class Rows:
    """A fixed number of rows, each with a problem that it is solving.

    tokens: int64 [B], the token each row's model gets next
    count:  tokens that the row has, prompt included; log: int16 [B, L], those tokens
    pending: the observation that comes next, `NO_TOKEN` if none does
    """

    def __init__(self, backbone: Backbone, vocabulary: Vocabulary, tool: Tool, rows: int, capacity: int,
                 decoding: Decoding) -> None:
        self.device = next(backbone.parameters()).device
        self.memory = BatchedMemory(tool, vocabulary.tokens, rows, capacity, self.device)
        self.decoder = backbone.decoder(rows, capacity, TYPES[decoding.weights], TYPES[decoding.states])
        self.end, self.size, self.temperature = vocabulary.id(END), len(vocabulary), decoding.temperature
        self.tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.count, self.pending, self.budget, self.prompt = (
            torch.zeros(rows, dtype=torch.int32, device=self.device) for _ in range(4))
        self.reason = torch.full_like(self.count, IDLE)
        self.seeds = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.log = torch.zeros(rows, capacity, dtype=torch.int16, device=self.device)
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        self.side = torch.cuda.Stream() if self.stream else None  # what is read there waits for no steps sent off since
        # After every run: its number, the reasons as they then are, and when these are here.
        self.looks: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()
        self.runs, self.begun = 0, np.zeros(rows, dtype=np.int64)  # the first run that a row's problem is in
        # All rows are idle while the graph is captured.
        self.graph = capture(self._step, self.stream) if self.stream and backbone.capturable else None

    def _on_stream(self):
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def _step(self) -> None:
        logits = self.decoder.step(self.tokens)
        if self.device.type == "cuda" and _has_triton():
            self._advance_fused(logits)
        else:
            self.advance(logits)

    def advance(self, logits: Tensor) -> None:
        """Take each row's next token from the model, unless it is forced (prompt, observation); let the tool answer."""
        if self.temperature:
            logits = logits.float() / self.temperature + gumbel(self.seeds, self.count, logits.shape[1])
        running, place = self.reason == 0, self.count.long()[:, None]
        asked = self.count < self.prompt
        cell = (self.memory.origin + place).clamp(max=self.memory.cells.shape[1] - 1)
        token = torch.where(self.pending != NO_TOKEN, self.pending.long(), logits.argmax(-1))
        token = torch.where(asked, self.memory.cells.gather(1, cell)[:, 0].long(), token)
        free = running & ~asked & (self.pending == NO_TOKEN)
        ended = free & (token == self.end)
        observation, invalid = self.memory.feed(token, free & ~ended)
        self.pending.copy_(torch.where(running, observation.to(torch.int32), self.pending))
        place = place.clamp(max=self.log.shape[1] - 1)
        self.log.scatter_(1, place, torch.where(running[:, None], token[:, None].to(torch.int16),
                                                self.log.gather(1, place)))
        self.count += running.to(torch.int32)
        self.tokens.copy_(torch.where(running, token, self.tokens))
        spent = running & (self.count >= self.budget)
        reason = torch.where(invalid, INVALID, torch.where(spent, BUDGET, self.reason))
        self.reason.copy_(torch.where(ended, END_REASON, reason))

    def _advance_fused(self, logits: Tensor) -> None:
        import triton

        from lightning_modules.rollout_kernel import advance

        memory, wide = self.memory, triton.next_power_of_2(self.size)
        advance[(len(self.tokens),)](
            logits, self.tokens, self.count, self.pending, self.reason, self.budget, self.prompt, self.seeds, self.log,
            memory.cells, memory.ends, memory.heads, memory.operation, memory.argument, self.end, memory.blank,
            memory.origin, self.temperature or 1.0, self.size, self.log.shape[1], memory.cells.shape[1],
            memory.heads.shape[1], wide, bool(self.temperature), num_warps=1 if wide <= 256 else 4)

    def start(self, rows: Sequence[int], prompts: Sequence[np.ndarray], budgets: Sequence[int],
              seeds: Sequence[int]) -> None:
        """Give `rows` new problems."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            padded[i, : len(prompt)] = torch.from_numpy(prompt)
        with self._on_stream():
            where, padded, lengths = (x.to(self.device) for x in (torch.tensor(rows), padded, lengths))
            limits = torch.tensor(budgets, dtype=torch.int32).to(self.device)
            self.decoder.reset(where)
            self.memory.reset(where, padded, lengths)
            self.tokens[where] = padded[:, 0]
            self.log[where, 0] = padded[:, 0].to(torch.int16)
            self.count[where], self.pending[where] = 1, NO_TOKEN
            self.budget[where], self.prompt[where] = limits, lengths.to(torch.int32)
            self.reason[where] = torch.where(limits <= 1, BUDGET, 0).to(torch.int32)
            self.seeds[where] = torch.tensor(seeds, dtype=torch.long).to(self.device)
        self.begun[list(rows)] = self.runs

    def run(self, steps: int) -> None:
        """That many steps; on CUDA they are only sent off."""
        with self._on_stream():
            for _ in range(steps):
                if self.graph:
                    self.graph.replay()
                else:
                    self._step()
            reason = torch.empty_like(self.reason, device="cpu", pin_memory=self.stream is not None)
            reason.copy_(self.reason, non_blocking=True)
            self.looks.append((self.runs, reason, self.stream.record_event() if self.stream else None))
        self.runs += 1

    def busy(self) -> bool:
        """Whether the first run that nobody has looked at is still under way."""
        return bool(self.looks) and self.looks[0][2] is not None and not self.looks[0][2].query()

    def ended(self, occupied: np.ndarray) -> list[tuple[int, str, np.ndarray]]:
        """Row, reason and tokens of the rows of `occupied`, bool [B], that have ended by the end of the first run that
        nobody has looked at; waits for that alone."""
        run, reason, there = self.looks.popleft()
        if there:
            there.synchronize()
        reason = reason.numpy()
        rows = np.flatnonzero((reason != 0) & occupied & (self.begun <= run))
        if not len(rows):
            return []
        # No step changes what belongs to a row that has ended.
        with torch.cuda.stream(self.side) if self.side else nullcontext():
            where = torch.from_numpy(rows).to(self.device)
            counts = self.count[where].cpu().numpy()
            log = self.log[where, : int(counts.max())].cpu().numpy()
        return [(int(row), REASONS[reason[row]], ids[:count])
                for row, ids, count in zip(rows, log, counts, strict=True)]


def gumbel(seeds: Tensor, count: Tensor, size: int) -> Tensor:
    """Gumbel noise, float32 [B, size]: a function of the row's seed and its number of tokens, on any device."""
    def mix(x: Tensor) -> Tensor:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        return x ^ (x >> 16)

    draw = mix(torch.arange(size, device=seeds.device) ^ mix(count.long() ^ mix(seeds))[:, None])
    uniform = (draw >> 8).float() * 2.0**-24 + 2.0**-25
    return -torch.log(-torch.log(uniform))


class Kinds:
    """Who wrote each token of a row, found from the tokens alone: `kinds(ids, prompt)` gives uint8 [n]."""

    def __init__(self, memory: BatchedMemory, vocabulary: Vocabulary) -> None:
        operation = memory.operation.cpu().numpy()
        self._kind = np.where(operation > Operation.APPEND, Kind.COMMAND, Kind.THOUGHT).astype(np.uint8)
        self._kind[vocabulary.id(END)] = Kind.END
        self._reads, self._answer = operation == Operation.READ, vocabulary.id(ANSWER)

    def __call__(self, ids: np.ndarray, prompt: int) -> np.ndarray:
        places = ids.astype(np.intp)
        kinds = self._kind.take(places)
        kinds[:prompt] = Kind.PROMPT
        # What is observed is never a command, so that no observation is taken for a read.
        np.copyto(kinds[prompt + 1 :], np.uint8(Kind.OBSERVATION), where=self._reads.take(places[prompt:-1]))
        turns = np.flatnonzero(ids == self._answer)
        turns = turns[kinds[turns] == Kind.THOUGHT].tolist()
        for begin, end in zip(turns[::2], [*turns[1::2], len(ids)], strict=False):
            said = kinds[begin + 1 : end]
            np.copyto(said, np.uint8(Kind.OUTPUT), where=said == Kind.THOUGHT)
        return kinds


def batched_rollout(backbone: Backbone, vocabulary: Vocabulary, tool: Tool,
                    problems: Sequence[tuple[np.ndarray, int, int]], batch_size: int,
                    decoding: Decoding) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """Solve problems (prompt ids, budget, seed); yields (index, reason, ids int16 [n], kinds uint8 [n]) as they end."""
    cuda = next(backbone.parameters()).is_cuda
    window = 16 if cuda else 8  # steps of a run
    ahead = 2 if cuda else 1    # runs that are sent off before it is known who has ended in the first of them
    capacity = max(budget for _, budget, _ in problems)
    rows = _build(backbone, vocabulary, tool, min(batch_size, len(problems)), capacity, decoding)
    kinds, queue = Kinds(rows.memory, vocabulary), deque(range(len(problems)))
    owner = np.full(len(rows.tokens), -1)

    def refill(free: Sequence[int]) -> None:
        free = list(free)[: len(queue)]
        if free:
            for row in free:
                owner[row] = queue.popleft()
            rows.start(free, *zip(*(problems[owner[row]] for row in free), strict=True))

    refill(range(len(owner)))
    waiting = deque()  # what has ended, and has not been dealt with

    def deal() -> tuple[int, str, np.ndarray, np.ndarray]:
        index, reason, ids = waiting.popleft()
        return index, reason, ids, kinds(ids, len(problems[index][0]))

    while (owner >= 0).any():
        while len(rows.looks) < ahead:
            rows.run(window)
        # The host has as long as a device goes on without it; on a CPU it has all the time.
        while waiting and (not cuda or rows.busy()):
            yield deal()
        finished = rows.ended(owner >= 0)
        waiting.extend((int(owner[row]), reason, ids) for row, reason, ids in finished)
        owner[[row for row, _, _ in finished]] = -1
        refill([row for row, _, _ in finished])
    while waiting:
        yield deal()


def _build(backbone: Backbone, vocabulary: Vocabulary, tool: Tool, count: int, capacity: int,
           decoding: Decoding) -> Rows:
    try:
        return Rows(backbone, vocabulary, tool, count, capacity, decoding)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        each = backbone.state_size(capacity) + 6 * capacity
        raise UserError(f"{count} rollouts of up to {capacity:,} tokens do not fit in the device's memory: give "
                        f"--evaluation.batch_size {max(1, int(0.8 * torch.cuda.mem_get_info()[0] / each))} or "
                        f"less") from None


def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
