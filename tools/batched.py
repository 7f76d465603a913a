"""Pointer memories and tapes of many rows as tensors, so that a device can answer commands without the host.

The scalar tools define what happens; `tests/tools/test_batched.py` holds this to them. The only tool that needs torch.
"""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from length_gen.tools.base import Tool, bare
from length_gen.tools.pointer_memory import EDGE, OPERATIONS, PointerMemory
from length_gen.tools.tape import BLANK, Tape


class Operation(IntEnum):
    """What a token does to the memory; the argument is a pointer's index, or the symbol that is put."""

    NOTHING = 0
    APPEND = 1
    INIT = 2
    LEFT = 3
    RIGHT = 4
    READ = 5
    PUT = 6


NO_TOKEN = -1
"""No observation, or a pointer that has no place yet."""


class BatchedMemory:
    """One row's memory is a line of cells with heads on it: a pointer memory, or a tape (one head, all cells there).

    tool:     a scalar tool of the kind; see `can_batch`
    tokens:   the vocabulary; ids are places in it
    capacity: tokens that a row may have in all

    cells:     int16 [B, C], ids; a pointer memory's cell 0 is its left edge
    ends:      int32 [B], the first cell beyond the last one; a tape has none, so all of its cells count as there
    heads:     int32 [B, K], `NO_TOKEN` before a pointer's init
    operation, argument: int16 [V] each
    """

    def __init__(self, tool: Tool, tokens: Sequence[str], rows: int, capacity: int, device: torch.device) -> None:
        self.is_tape = isinstance(tool, Tape)
        self.origin = capacity if self.is_tape else 1
        """Cell of the question's first token."""
        ids = {token: i for i, token in enumerate(tokens)}
        table = [self._operation(tool, token, ids) for token in tokens]
        self.operation, self.argument = (torch.tensor(column, dtype=torch.int16, device=device)
                                         for column in zip(*table, strict=True))
        # Whatever lies beyond the written cells is never read: a pointer there reads the edge.
        self.blank = ids[BLANK] if self.is_tape else ids[EDGE]
        size = 2 * capacity + 2 if self.is_tape else capacity + 2
        self.cells = torch.full((rows, size), self.blank, dtype=torch.int16, device=device)
        self.ends = torch.zeros(rows, dtype=torch.int32, device=device)
        self.heads = torch.zeros(rows, 1 if self.is_tape else tool.pointers, dtype=torch.int32, device=device)

    def _operation(self, tool: Tool, token: str, ids: dict[str, int]) -> tuple[int, int]:
        name = bare(token)
        if name not in tool.commands:
            return (Operation.NOTHING if self.is_tape else Operation.APPEND), 0
        if self.is_tape:
            if name.startswith("write."):
                return Operation.PUT, ids[name.removeprefix("write.")]
            return {"left": Operation.LEFT, "right": Operation.RIGHT, "read": Operation.READ}[name], 0
        pointer, operation = name.split(".")
        return Operation.INIT + OPERATIONS.index(operation), int(pointer[1:]) - 1

    def reset(self, rows: Tensor, prompts: Tensor, lengths: Tensor) -> None:
        """Start new problems in `rows`, int64 [k]: prompts [k, P], padded, of `lengths` [k]."""
        width = prompts.shape[1]
        self.cells.index_fill_(0, rows, self.blank)  # numbers, assigned, would make the host wait for the device
        inside = torch.arange(width, device=prompts.device) < lengths[:, None]
        self.cells[rows, self.origin : self.origin + width] = torch.where(inside, prompts, self.blank).to(torch.int16)
        if self.is_tape:
            self.ends.index_fill_(0, rows, self.cells.shape[1])
        else:
            self.ends[rows] = (lengths + 1).to(torch.int32)
        self.heads.index_fill_(0, rows, self.origin if self.is_tape else NO_TOKEN)

    def feed(self, tokens: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Take one token a row, int64 [B], where `active`, bool [B]; as `Tool.feed` of each row does.

        Returns the observation's token, int64 [B], `NO_TOKEN` where there is none, and which commands were invalid.
        """
        operation = torch.where(active, self.operation[tokens], Operation.NOTHING)
        argument = self.argument[tokens].long()
        pointer = torch.where(operation == Operation.PUT, 0, argument).clamp(max=self.heads.shape[1] - 1)[:, None]
        head = self.heads.gather(1, pointer)[:, 0]
        moves = (operation >= Operation.LEFT) & (operation <= Operation.READ)
        invalid = moves & (head == NO_TOKEN)
        placed = ~invalid
        to = torch.where(operation == Operation.INIT, 1, head)
        to = torch.where((operation == Operation.LEFT) & placed, (head - 1).clamp(min=0), to)
        to = torch.where((operation == Operation.RIGHT) & placed, torch.minimum(head + 1, self.ends), to)
        self.heads.scatter_(1, pointer, to[:, None])
        cell = head.clamp(min=0).long()[:, None]
        found = self.cells.gather(1, cell.clamp(max=self.cells.shape[1] - 1))[:, 0].long()
        found = torch.where(head < self.ends, found, self.blank)
        observation = torch.where((operation == Operation.READ) & placed, found, NO_TOKEN)
        # One write a row: at the end, under the head, or (nothing to write) what is there already, at cell 0.
        append, put = operation == Operation.APPEND, operation == Operation.PUT
        place = torch.where(append, self.ends.long(), torch.where(put, cell[:, 0], 0))[:, None]
        value = torch.where(append, tokens, torch.where(put, argument, self.cells[:, 0].long()))
        self.cells.scatter_(1, place, value[:, None].to(torch.int16))
        self.ends += append.to(torch.int32)
        return observation, invalid


def can_batch(tool: Tool) -> bool:
    """Whether `BatchedMemory` has this kind of tool."""
    return type(tool) in (PointerMemory, Tape)
