import random

import pytest
import torch

from length_gen.tools import InvalidCommand, PointerMemory, Tape
from length_gen.tools.batched import NO_TOKEN, BatchedMemory, can_batch
from length_gen.tools.pointer_memory import EDGE
from length_gen.tools.tape import BLANK

THOUGHTS = ("a", "b", "c")
POINTERS = [f"{command}@{phase}" for phase in ("x", "y") for command in PointerMemory(3).commands]
TAPE = [*THOUGHTS, BLANK, *(f"{command}@run" for command in Tape((*THOUGHTS, BLANK)).commands)]
KINDS = {"pointers": (lambda: PointerMemory(3), [EDGE, *THOUGHTS, *PointerMemory(3).commands, *POINTERS]),
         "tape": (lambda: Tape((*THOUGHTS, BLANK)), [*TAPE, "left", "read"])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_random_programs_get_the_scalar_tools_answers(kind, seed):
    new, tokens = KINDS[kind]
    rng, rows, steps = random.Random(seed), 12, 400
    memory = BatchedMemory(new(), tokens, rows, steps + 10, torch.device("cpu"))
    scalar = [new() for _ in range(rows)]
    prompts = [rng.choices(THOUGHTS, k=rng.randint(1, 6)) for _ in range(rows)]
    _start(memory, scalar, tokens, range(rows), prompts)
    ended = [False] * rows
    for step in range(steps):
        said = [rng.randrange(len(tokens)) for _ in range(rows)]
        active = [not end and rng.random() < 0.9 for end in ended]
        observation, invalid = memory.feed(torch.tensor(said), torch.tensor(active))
        for i, tool in enumerate(scalar):
            expected, wrong = None, False
            if active[i]:
                try:
                    expected = tool.feed(tokens[said[i]])
                except InvalidCommand:
                    wrong = ended[i] = True
            assert bool(invalid[i]) == wrong
            assert observation[i] == (tokens.index(expected[0]) if expected else NO_TOKEN)
        if step % 50 == 49:  # some rows get new problems
            again = [i for i in range(rows) if ended[i] or rng.random() < 0.2]
            _start(memory, scalar, tokens, again, [rng.choices(THOUGHTS, k=rng.randint(1, 6)) for _ in again])
            for i in again:
                ended[i] = False


def _start(memory, scalar, tokens, rows, prompts):
    if not rows:
        return
    padded = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        scalar[row].reset(prompt)
        padded[i, : len(prompt)] = torch.tensor([tokens.index(token) for token in prompt])
    memory.reset(torch.tensor(list(rows)), padded, torch.tensor([len(prompt) for prompt in prompts]))


def test_only_tools_of_one_token_a_call_can_be_batched():
    from length_gen.tools import SearchMemory, Unassisted

    assert can_batch(PointerMemory(1)) and can_batch(Tape("ab"))
    assert not can_batch(SearchMemory()) and not can_batch(Unassisted(PointerMemory(1)))
