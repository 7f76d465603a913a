"""Exact match without a rollout: is the teacher-forced argmax right at every predicted token of the reference?

With greedy decoding that is the same question as whether the rollout is the reference trajectory, but it is answered by
a parallel pass in chunks, in memory that does not grow with the trajectory. A right answer that is reached another way
is not seen: that takes a rollout. `verify` takes trajectories that are there; `verify_streamed` records them while it
goes, for problems of any length.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from length_gen.datamodules.recording import Block, RecordedRows
from length_gen.datamodules.tasks import Problem, Task
from length_gen.datamodules.tokens import PREDICTED
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.evaluation.outcome import Outcome
from length_gen.lightning_modules.evaluation.teacher_forcing import TeacherForcing, padded
from length_gen.tools.files import atomic_path

SAVE_SECONDS = 60
"""How often a long verification saves where it is."""


@torch.inference_mode()
def verify(backbone: Backbone, vocabulary: Vocabulary, references: Sequence[Trajectory],
           chunk_size: int | None = None, batch_size: int = 64,
           progress: Callable[[int], None] = lambda tokens: None) -> list[Outcome]:
    """Outcome of every reference trajectory, in order; `chunk_size` tokens of `batch_size` rows at a time.

    chunk_size: None: as suits the device
    progress:   called after each chunk with how many tokens of the trajectories were in it
    """
    outcomes = []
    if chunk_size is None:
        chunk_size = min(1024, suited_chunk(backbone, min(batch_size, len(references))))
    for start in range(0, len(references), batch_size):
        batch = references[start : start + batch_size]
        verification = Verification(backbone, len(batch))
        for rows in blocks_of(batch, vocabulary, chunk_size):
            verification.take(rows)
            progress(sum(len(row.ids) for row in rows if row))
        outcomes += verification.outcomes()
    return outcomes


@torch.inference_mode()
def verify_streamed(backbone: Backbone, task: Task, problems: Sequence[Problem], vocabulary: Vocabulary,
                    chunk_size: int | None = None, workers: int = 1,
                    progress: Callable[[int], None] = lambda tokens: None, saved: Path | None = None,
                    stop_early: bool = True) -> list[Outcome]:
    """Outcome of the reference trajectory of every problem, recorded by worker processes, all of them side by side.

    With `stop_early` it stops when every row has had its first error; the outcomes then count what was seen so far.

    chunk_size: tokens of a row at a time; None: as suits the device
    progress:   called with the tokens of the longest row that are done
    saved:      file to go on from if this very verification was cut off, which is removed at the end
    """
    if chunk_size is None:
        chunk_size = suited_chunk(backbone, len(problems))
    verification = Verification(backbone, len(problems))
    key = _key(backbone, problems, chunk_size) if saved else ""
    done = verification.restore(saved, key) if saved else 0
    rows, last = RecordedRows(task, problems, vocabulary, chunk_size, workers), time.monotonic()
    for number, blocks in enumerate(rows):
        if number >= done:
            verification.take(blocks)
            progress((number + 1) * chunk_size)
            if stop_early and verification.all_wrong():
                break
            if saved and time.monotonic() - last > SAVE_SECONDS:
                verification.save(saved, key, number + 1)
                last = time.monotonic()
    if saved:
        saved.unlink(missing_ok=True)
    return verification.outcomes()


def suited_chunk(backbone: Backbone, rows: int) -> int:
    """Tokens of each of so many rows in one pass. A CPU takes less time for a token where what a pass computes stays
    small enough not to be given back to the system after each of its operations."""
    if next(backbone.parameters()).is_cuda:
        return max(1024, 131_072 // max(1, rows))
    return max(256, 16_384 // max(1, rows))


def _differs(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor]:
    return (logits.argmax(-1) != tokens,)


class Verification:
    """Some rows of reference trajectories, block after block: where the model would have gone another way.

    counts:   int64 [4, B], tokens, predicted tokens, wrong ones among them, turns
    errors:   position and phase of each row's first error; None before it
    """

    def __init__(self, backbone: Backbone, rows: int) -> None:
        self.forcing = TeacherForcing(backbone, rows, _differs)
        self.counts = np.zeros((4, rows), dtype=np.int64)
        self.errors: list[tuple[int, str] | None] = [None] * rows
        self._open: tuple[Sequence[Block | None], torch.Tensor, torch.cuda.Event | None] | None = None

    def take(self, blocks: Sequence[Block | None]) -> None:
        """The next block of every row; None where the trajectory has ended.

        What came out is read when the next block is on its way: the device shall not wait for the host.
        """
        differs, = self.forcing.take([block and block.ids for block in blocks])
        predicted = padded([block and block.predicted for block in blocks]).to(differs.device)
        wrong = differs & predicted
        found = torch.stack([predicted.sum(1), wrong.sum(1), wrong.byte().argmax(1)]).to(
            "cpu", non_blocking=wrong.is_cuda)
        ready = torch.cuda.current_stream(wrong.device).record_event() if wrong.is_cuda else None
        self._settle()
        self._open = blocks, found, ready

    def _settle(self) -> None:
        """Count what came out of the last block."""
        if self._open is None:
            return
        (blocks, found, ready), self._open = self._open, None
        if ready:
            ready.synchronize()
        for i, (block, predicted, wrong, place) in enumerate(zip(blocks, *found.tolist(), strict=True)):
            if not block:
                continue
            if wrong and self.errors[i] is None:
                phases = [name for position, name in block.phases if position <= place]
                self.errors[i] = int(self.counts[0, i]) + place, phases[-1] if phases else ""
            self.counts[:, i] += len(block.ids), predicted, wrong, block.turns

    def all_wrong(self) -> bool:
        """Whether every row has had an error before the last block."""
        return all(error is not None for error in self.errors)

    def outcomes(self) -> list[Outcome]:
        """Outcome of every row, by the blocks that were taken so far; whether answers are right is not judged."""
        self._settle()
        return [Outcome(exact=error is None, answer_correct=None, predicted_tokens=int(predicted),
                        correct_tokens=int(predicted - wrong), first_error=error and error[0],
                        phase=error and error[1], turns=int(turns), tokens=int(tokens), reason="verify",
                        engine="verify")
                for error, tokens, predicted, wrong, turns in zip(self.errors, *self.counts, strict=True)]

    def save(self, path: Path, key: str, done: int) -> None:
        """Write what `restore` needs to go on after `done` blocks of every row; the key says of which verification."""
        self._settle()
        content = {"key": key, "done": done, "state": self.forcing.state, "last": self.forcing.last,
                   "counts": torch.from_numpy(self.counts), "errors": self.errors}
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def restore(self, path: Path, key: str) -> int:
        """Blocks that are done already, by what `save` left; 0 if that was another verification, or is broken."""
        try:
            content: dict[str, Any] = torch.load(path, map_location=self.forcing.last.device, weights_only=True)
        except Exception:  # none, or not whole: begin again
            return 0
        if content.get("key") != key or "last" not in content:  # another one, or from before it was kept so
            return 0
        self.forcing.state, self.forcing.last = content["state"], content["last"]
        self.errors, self.counts = content["errors"], content["counts"].cpu().numpy()
        return content["done"]


def blocks_of(references: Sequence[Trajectory], vocabulary: Vocabulary, size: int) -> Iterator[list[Block | None]]:
    """Whole trajectories as the blocks that `RecordedRows` would give."""
    rows = [(torch.from_numpy(vocabulary.encode(r.tokens).astype(np.int32)),
             torch.from_numpy(np.isin(np.frombuffer(r.kinds, dtype=np.uint8), list(PREDICTED)))) for r in references]
    for start in range(0, max(len(ids) for ids, _ in rows), size):
        blocks: list[Block | None] = []
        for reference, (ids, predicted) in zip(references, rows, strict=True):
            stop = min(start + size, len(ids))
            phases = [(0, reference.phase_at(start))]
            phases += [(place - start, name) for place, name in reference.phases if start < place < stop]
            blocks.append(Block(ids[start:stop], predicted[start:stop], phases, 0 if start else reference.turns())
                          if start < len(ids) else None)
        yield blocks


def _key(backbone: Backbone, problems: Iterable[Problem], chunk_size: int) -> str:
    """What a saved verification must agree in to be gone on with: problems, weights, chunks."""
    digest = hashlib.sha256(repr([*problems, chunk_size, backbone.description]).encode())
    for tensor in backbone.state_dict().values():
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def expected_tokens(task: Task, length: int, variant: str, seed: int) -> int:
    """About how many tokens a trajectory of that length has, from shorter ones of some 100,000 tokens at most."""
    counts: list[tuple[int, int]] = []
    size = min(max(4, task.part(variant)[0].shortest), length)
    while len(counts) < 2 or counts[-1][1] < 100_000:
        counts.append((size, len(task.record(task.problem("validation", seed, size, 0, variant)).tokens)))
        if size == length:
            return counts[-1][1]
        size = min(size + max(1, size // 2), length)
    (short, few), (long, some) = counts[-2:]
    return round(some * (length / long) ** (np.log(some / few) / np.log(long / short)))
