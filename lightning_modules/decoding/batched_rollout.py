"""Rollouts without the host in the loop: model, choice of the token, tool and bookkeeping stay on the device.

For tools that tools/batched.py has; rollout.py chooses, and asks all others on the host. On CUDA all of a step is one
graph, replayed many times between two looks at which rows have ended. Prompts are taken in passes over many tokens
where that is faster.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from length_gen.datamodules.tokens import ANSWER, END, Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.decoder import capture
from length_gen.lightning_modules.decoding.prefill import PrefillPlan
from length_gen.lightning_modules.decoding.sampling import drawn_from
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.tools import Tool, UserError
from length_gen.tools.batched import NO_TOKEN, BatchedMemory, Operation

REASONS = ("", "end", "budget", "invalid_command")
"""By number, as a row's `reason` has it; the first: it goes on."""
IDLE = len(REASONS)
"""The `reason` of a row without a problem."""
END_REASON, BUDGET, INVALID = 1, 2, 3


class Rows:
    """A fixed number of rows, each with a problem that it is solving; those that have ended wait for `start`.

    capacity: most tokens that a row may have
    hidden:   most tokens that a question may have beyond what its row reads of it
    tokens:   int64 [B], the token each row's model gets next
    count:    int32 [B], tokens that the row has, prompt included; log: int16 [B, L], those tokens
    pending:  int32 [B], the observation that comes next, `NO_TOKEN` if none does
    reason:   int32 [B], 0 while the row goes on, else a number of `REASONS`, or IDLE
    """

    def __init__(self, backbone: Backbone, vocabulary: Vocabulary, tool: Tool, rows: int, capacity: int,
                 decoding: Decoding, hidden: int = 0) -> None:
        self.device = next(backbone.parameters()).device
        self.memory = BatchedMemory(tool, vocabulary.tokens, rows, capacity + hidden, self.device)
        self.decoder = backbone.decoder(rows, capacity, *decoding.types(backbone))
        self.end, self.size, self.temperature = vocabulary.id(END), len(vocabulary), decoding.temperature
        self.hidden = hidden
        self.tokens = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.count, self.pending, self.budget, self.prompt = (
            torch.zeros(rows, dtype=torch.int32, device=self.device) for _ in range(4))
        self.reason = torch.full_like(self.count, IDLE)
        self.seeds = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.log = torch.zeros(rows, capacity, dtype=torch.int16, device=self.device)
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        self.side = torch.cuda.Stream() if self.stream else None  # what is read there waits for no steps sent off since
        # After every run: its number, reasons and counts as they then are, and when these are here.
        self.looks: deque[tuple[int, Tensor, Tensor, torch.cuda.Event | None]] = deque()
        self.runs, self.begun = 0, np.zeros(rows, dtype=np.int64)  # the first run that a row's problem is in
        self.written = np.zeros(rows, dtype=np.int64)  # tokens that are in the log for certain
        # All rows are idle while the graph is captured.
        self.graph = capture(self._step, self.stream) if self.stream and backbone.capturable else None
        # The host's time for a pass in steps, which take longer with more rows; the figures are in docs/performance.md.
        self.plan = PrefillPlan(backbone, capacity, round(70 / (1 + rows / 370)) if self.graph else 2)
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())  # which has filled all this

    def _on_stream(self):
        return torch.cuda.stream(self.stream) if self.stream else nullcontext()

    def _step(self) -> None:
        logits = self.decoder.step(self.tokens)
        if self.device.type == "cuda" and _has_triton():
            self._advance_fused(logits)
        else:
            self.advance(logits)

    def advance(self, logits: Tensor) -> None:
        """Take each row's next token from logits [B, V], unless it is forced (prompt, observation); let the tool
        answer."""
        if self.temperature:
            logits = drawn_from(logits, self.temperature, self.seeds, self.count)
        running, place = self.reason == 0, self.count.long().clamp(max=self.log.shape[1] - 1)[:, None]
        asked, logged = self.count < self.prompt, self.log.gather(1, place)  # where `start` has left the prompt
        token = torch.where(self.pending != NO_TOKEN, self.pending.long(), logits.argmax(-1))
        token = torch.where(asked, logged[:, 0].long(), token)
        free = running & ~asked & (self.pending == NO_TOKEN)
        ended = free & (token == self.end)
        observation, invalid = self.memory.feed(token, free & ~ended)
        self.pending.copy_(torch.where(running, observation.to(torch.int32), self.pending))
        self.log.scatter_(1, place, torch.where(running[:, None], token[:, None].to(torch.int16), logged))
        self.count += running.to(torch.int32)
        self.tokens.copy_(torch.where(running, token, self.tokens))
        spent = running & (self.count >= self.budget)
        reason = torch.where(invalid, INVALID, torch.where(spent, BUDGET, self.reason))
        self.reason.copy_(torch.where(ended, END_REASON, reason))

    def _advance_fused(self, logits: Tensor) -> None:
        import triton

        from length_gen.lightning_modules.decoding.rollout_kernel import advance

        memory, wide = self.memory, triton.next_power_of_2(self.size)
        advance[(len(self.tokens),)](
            logits.contiguous(), self.tokens, self.count, self.pending, self.reason, self.budget, self.prompt,
            self.seeds, self.log, memory.cells, memory.ends, memory.heads, memory.operation, memory.argument, self.end,
            memory.blank, self.temperature or 1.0, self.size, self.log.shape[1], memory.cells.shape[1],
            memory.heads.shape[1], wide, bool(self.temperature), num_warps=1 if wide <= 256 else 4)

    def start(self, rows: Sequence[int], prompts: Sequence[np.ndarray], budgets: Sequence[int],
              seeds: Sequence[int], questions: Sequence[np.ndarray] | None = None) -> None:
        """Give `rows` new problems: prompts, int [P] each, budgets in tokens, and seeds of the draws.

        questions: what the tool has, where rows do not read all of it; None: the prompts
        """
        most = self.log.shape[1]
        prompts = [prompt[:most] for prompt in prompts]  # budgets end before the others' rest
        # At least the last token of a prompt, or of a budget, is taken in a step, which says what comes then.
        known = [max(0, min(len(prompt), budget - 1) - 1) for prompt, budget in zip(prompts, budgets, strict=True)]
        with self._on_stream():
            where, limits = self._send(torch.tensor(rows)), self._send(torch.tensor(budgets))
            padded, lengths = asked = self._padded(prompts)
            if questions is not None:
                asked = self._padded([question[: most + self.hidden] for question in questions])
            self.decoder.reset(where)
            self.memory.reset(where, *asked)
            taken = self._send(self._prefill(where, padded, known))
            self.tokens[where] = padded.gather(1, taken[:, None])[:, 0]
            self.log[where, : padded.shape[1]] = padded.to(torch.int16)
            self.count[where], self.budget[where], self.prompt[where] = (
                numbers.to(torch.int32) for numbers in (1 + taken, limits, lengths))
            self.pending.index_fill_(0, where, NO_TOKEN)
            self.reason[where] = torch.where(limits <= 1, BUDGET, 0).to(torch.int32)
            self.seeds[where] = self._send(torch.tensor(seeds, dtype=torch.long))
        self.begun[list(rows)], self.written[list(rows)] = self.runs, 0

    def _prefill(self, where: Tensor, prompts: Tensor, known: Sequence[int]) -> Tensor:
        """Let rows `where`, int64 [k], take up to `known` tokens of `prompts`, [k, P], where passes are faster than
        steps; how many they took, int64 [k] on the host."""
        taken = torch.zeros(len(known), dtype=torch.long)
        for chosen, length in self.plan.passes(known, len(self.tokens)) if self.decoder.prefills else ():
            places = self._send(torch.tensor(chosen))
            columns = self._send(taken[chosen, None] + torch.arange(length))
            self.plan.take(self.decoder, where[places], prompts[places[:, None], columns])
            taken[chosen] += length
        return taken

    def _padded(self, rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Rows of any lengths as one tensor, int64 [k, P], filled up with 0, and their lengths, int64 [k], on the
        device."""
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.from_numpy(row)
        return self._send(padded), self._send(lengths)

    def _send(self, numbers: Tensor) -> Tensor:
        """To the device, without waiting for what it does."""
        return numbers.pin_memory().to(self.device, non_blocking=True) if self.stream else numbers.to(self.device)

    def run(self, steps: int) -> None:
        """Take so many steps; on CUDA they are only sent off."""
        with self._on_stream():
            for _ in range(steps):
                if self.graph:
                    self.graph.replay()
                else:
                    self._step()
            reason, count = (torch.empty_like(what, device="cpu", pin_memory=self.stream is not None)
                             .copy_(what, non_blocking=True) for what in (self.reason, self.count))
            self.looks.append((self.runs, reason, count, self.stream.record_event() if self.stream else None))
        self.runs += 1

    def busy(self) -> bool:
        """Whether the first run that nobody has looked at is still under way."""
        return bool(self.looks) and self.looks[0][-1] is not None and not self.looks[0][-1].query()

    def finish(self) -> None:
        """Wait for all that was sent off: what it writes to must not go before."""
        if self.stream:
            self.stream.synchronize()

    def ended(self, occupied: np.ndarray) -> dict[int, str]:
        """Rows of `occupied`, bool [B], that have ended by the end of the first run that nobody has looked at, and why;
        waits for that run."""
        run, reason, count, there = self.looks.popleft()
        if there:
            there.synchronize()
        known, reason = self.begun <= run, reason.numpy()
        self.written[known] = count.numpy()[known]
        return {row: REASONS[reason[row]] for row in np.flatnonzero((reason != 0) & occupied & known).tolist()}

    def read(self, rows: Sequence[int], begin: np.ndarray) -> list[np.ndarray]:
        """The tokens of `rows`, int16, from a place of each on, as far as they are known to be written."""
        end = self.written[rows]
        low = int(begin.min())
        with torch.cuda.stream(self.side) if self.side else nullcontext():
            log = self.log[torch.tensor(rows).to(self.device), low : int(end.max())].cpu().numpy()
        return [ids[a - low : b - low] for ids, a, b in zip(log, begin, end, strict=True)]


class Kinds:
    """Who wrote each token of a row, found from the tokens alone: an observation follows every command that reads."""

    def __init__(self, memory: BatchedMemory, vocabulary: Vocabulary) -> None:
        operation = memory.operation.cpu().numpy()
        self._kind = np.where(operation > Operation.APPEND, Kind.COMMAND, Kind.THOUGHT).astype(np.uint8)
        self._kind[vocabulary.id(END)] = Kind.END
        self._reads, self._answer = operation == Operation.READ, vocabulary.id(ANSWER)

    def __call__(self, ids: np.ndarray, prompt: int, begin: int = 0, before: int = 0,
                 answering: bool = False) -> tuple[np.ndarray, bool]:
        """Kinds, uint8 [n], of the tokens from `begin` on, and whether the row is answering after them.

        prompt: tokens that the prompt has; before: the token before these; answering: whether the row was, then
        """
        places = np.empty(len(ids) + 1, dtype=np.intp)
        places[0], places[1:] = before, ids
        kinds = self._kind.take(places[1:])
        kinds[: max(0, prompt - begin)] = Kind.PROMPT
        # What is observed is never a command, so that no observation is taken for a read.
        first = max(0, prompt + 1 - begin)
        np.copyto(kinds[first:], np.uint8(Kind.OBSERVATION), where=self._reads.take(places[first:-1]))
        turns = np.flatnonzero(places[1:] == self._answer)
        turns = turns[kinds[turns] == Kind.THOUGHT].tolist()
        edges = [-1, *turns] if answering else turns
        for start, stop in zip(edges[::2], [*edges[1::2], len(ids)], strict=False):
            said = kinds[start + 1 : stop]
            np.copyto(said, np.uint8(Kind.OUTPUT), where=said == Kind.THOUGHT)
        return kinds, len(edges) % 2 == 1


class Said:
    """What a row has said, by name, and who wrote each token of it; it grows piece by piece.

    prompt: tokens that the prompt has
    tokens, kinds: of the pieces so far
    """

    def __init__(self, kinds: Kinds, vocabulary: Vocabulary, prompt: int) -> None:
        self.tokens: list[str] = []
        self.kinds = bytearray()
        self._find, self._decode, self._prompt, self._answering, self._last = kinds, vocabulary.decode, prompt, False, 0

    def extend(self, ids: np.ndarray) -> None:
        """Take the row's next tokens, int [n]."""
        if not len(ids):
            return
        kinds, self._answering = self._find(ids, self._prompt, len(self.tokens), self._last, self._answering)
        self._last = int(ids[-1])
        self.tokens += self._decode(ids)
        self.kinds += kinds.tobytes()


RUN = {"cuda": 16, "cpu": 8}
"""Steps between two looks at which rows have ended."""

PIECE, PIECES = 256, 32
"""Tokens of a row, and rows, that are taken from the log at once while they go on."""


def batched_rollout(backbone: Backbone, vocabulary: Vocabulary, tool: Tool,
                    problems: Sequence[tuple[Sequence[str], Sequence[str], int, int]], batch_size: int,
                    decoding: Decoding) -> Iterator[tuple[int, str, list[str], bytearray]]:
    """Solve problems (question, what is read of it, budget, seed); yields (index, reason, tokens, kinds) as they end.

    On CUDA the device always has steps to do: the next are sent off before it is known who has ended in those before,
    and while it does them the host prepares prompts and takes in what was said. Raises UserError where so many rows do
    not fit in the device's memory.
    """
    cuda = next(backbone.parameters()).is_cuda
    ahead, steps = (2, RUN["cuda"]) if cuda else (1, RUN["cpu"])
    capacity = max(budget for _, _, budget, _ in problems)
    hidden = max(len(question) - len(prompt) for question, prompt, _, _ in problems)
    rows = _build(backbone, vocabulary, tool, min(batch_size, len(problems)), capacity, decoding, hidden)
    kinds, size = Kinds(rows.memory, vocabulary), len(rows.tokens)
    owner, said = np.full(size, -1), [Said(kinds, vocabulary, 0)] * size
    questions: list[tuple[np.ndarray, np.ndarray]] = []  # each with what is read of it
    given = 0  # problems that rows have, or had
    waiting: deque[tuple[int, str, Said, np.ndarray]] = deque()  # what has ended, and has not been dealt with

    def encode() -> None:
        question, prompt, *_ = problems[len(questions)]
        ids = vocabulary.encode(question)
        questions.append((ids, vocabulary.encode(prompt) if hidden else ids))

    def refill(free: Sequence[int]) -> None:
        nonlocal given
        free = list(free)[: len(problems) - given]
        if not free:
            return
        chosen = range(given, given + len(free))
        while len(questions) < chosen.stop:
            encode()
        asked, prompts = zip(*questions[chosen.start : chosen.stop], strict=True)
        for row, index, prompt in zip(free, chosen, prompts, strict=True):
            owner[row], said[row] = index, Said(kinds, vocabulary, len(prompt))
        rows.start(free, prompts, *zip(*(problems[i][2:] for i in chosen), strict=True), asked if hidden else None)
        given = chosen.stop

    def new(of: Sequence[int]) -> list[np.ndarray]:
        return rows.read(of, np.array([len(said[row].tokens) for row in of]))

    def deal() -> tuple[int, str, list[str], bytearray]:
        index, reason, row, ids = waiting.popleft()
        row.extend(ids)
        return index, reason, row.tokens, row.kinds

    def prepare() -> bool:
        """Something that would otherwise have to be done later; tells whether there was any."""
        if len(questions) < min(len(problems), given + size):
            encode()
            return True
        behind = np.flatnonzero((owner >= 0) & (rows.written - taken >= PIECE))[:PIECES]
        for row, ids in zip(behind, new(behind) if len(behind) else (), strict=True):
            said[row].extend(ids)
            taken[row] += len(ids)
        return len(behind) > 0

    taken = np.zeros(size, dtype=np.int64)  # tokens of `said`
    refill(range(size))
    try:
        while (owner >= 0).any():
            while len(rows.looks) < ahead:
                rows.run(steps)
            # The host has as long as a device goes on without it; on a CPU it has all the time.
            while not cuda or rows.busy():
                if waiting:
                    yield deal()
                elif not prepare():
                    break
            if finished := rows.ended(owner >= 0):
                rest = new(list(finished))
                waiting.extend((int(owner[row]), reason, said[row], ids)
                               for (row, reason), ids in zip(finished.items(), rest, strict=True))
                owner[list(finished)], taken[list(finished)] = -1, 0
                refill(list(finished))
        while waiting:
            yield deal()
    finally:
        rows.finish()


def _build(backbone: Backbone, vocabulary: Vocabulary, tool: Tool, count: int, capacity: int,
           decoding: Decoding, hidden: int) -> Rows:
    try:
        return Rows(backbone, vocabulary, tool, count, capacity, decoding, hidden)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        each = backbone.state_size(capacity) + 6 * (capacity + hidden)
        raise UserError(f"{count} rollouts of up to {capacity:,} tokens do not fit in the device's memory: give "
                        f"--evaluation.batch_size {max(1, int(0.8 * torch.cuda.mem_get_info()[0] / each))} or "
                        f"less") from None


def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
