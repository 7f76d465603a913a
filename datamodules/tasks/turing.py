"""Any Turing machine, on a tape (paper, Theorem 2.2 and appendix B)."""

import random
from typing import Literal

from jsonargparse.typing import PositiveInt

from length_gen.datamodules.questions import Questions
from length_gen.datamodules.settings import Setting
from length_gen.datamodules.tasks.base import Problem, ToolTask
from length_gen.datamodules.tasks.machine import load_machine
from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import UserError
from length_gen.tools.tape import BLANK, Tape


class Turing(ToolTask):
    """Runs a machine and outputs what stands around the head when it halts, from blank to blank.

    Each step of the machine is its state as a thought, a read, a write and a move. For `1` with the machine
    `increment`, in style `paper`::

        1   <to_end> read 1 write.1 right   <to_end> read _ write._ left   <carry> read 1 write.0 left
        <carry> read _ write.1   <done>     read 1 left read _   right read 1 [ANS] 1 right read 0 0 right read _ [END]

    After the halting state the head goes left to the nearest blank (it stays if it is on one), and right over what
    follows. The next token then follows from the last few, in both styles. Length: that of the machine's inputs (see
    its file).

    A part of an input with up to n symbols has exactly n in the test problems of the variant without a name; a machine
    that has such parts is tested on inputs like those of the training too, in the variant `up to n`.

    With `state_every` the state is written less often, so that a model must look further back for it: K steps, or as
    far as the state has not changed, or to the beginning.

    machine:     name of a file in datamodules/tasks/machines (`increment`, `decrement`, `add`, `collatz`,
                 `multiply_unary`, `palindrome`, `brackets`, `copy`, `sort`, `erase`), or the path of your own;
                 `datamodules.tasks.machine` says what is in it;
                 or a random one, such as `random_Q4_S3_seed7`, see `datamodules.tasks.random_machine`
    state_every: steps of the machine after which its state is written again; `change`: wherever it has changed;
                 `never`
    """

    phases = ("run", "rewind", "output")

    def __init__(self, machine: str, max_length: int, style: str = "local",
                 setting: Setting | str = "interactive", state_every: PositiveInt | Literal["change", "never"] = 1) \
            -> None:
        if state_every not in ("change", "never") and not (isinstance(state_every, int) and state_every > 0):
            raise UserError(f"state_every {state_every!r} is not possible: expected a number of steps from 1 on, "
                            f"change or never")
        self.machine, self.state_every = load_machine(machine), state_every
        self.name = f"turing_{self.machine.name}" + f"_state_{state_every}" * (state_every != 1)
        self._thoughts = {state: f"<{state}>" for state in self.machine.states if state_every != "never"}
        self.symbols = (*self.machine.symbols, BLANK, *self._thoughts.values())
        self.variants = ("", "up to n") if self.machine.varies else ("",)
        super().__init__(max_length, style, setting)

    def memory(self) -> Tape:
        return Tape((*self.machine.symbols, BLANK))

    def questions(self, variant: str) -> Questions:
        return self.machine.questions()

    def sample(self, rng: random.Random, length: int, variant: str = "") -> Problem:
        return Problem(self.machine.sample(rng, length, exact=not variant), length, variant)

    def sample_training(self, rng: random.Random) -> Problem:
        length = rng.randint(1, self.max_length)
        return Problem(self.machine.sample(rng, length, exact=False), length)

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("run")
        machine, thoughts, state = self.machine, self._thoughts, self.machine.start
        think, command = scribe.think, scribe.command
        changes = self.state_every == "change"
        every = 1 if not thoughts or changes else self.state_every
        steps, said = 0, ""
        for _ in machine.steps(problem.prompt):
            if thoughts and steps == 0 and state != said:
                think(thoughts[state])
                said = state if changes else ""
            if state in machine.halt:
                break
            steps = (steps + 1) % every
            symbol, = command("read")
            written, move, state = machine.transitions[state, symbol]
            command("write." + written)
            if move:
                command(move)
        else:
            raise machine.endless(problem.prompt)
        scribe.phase("rewind")
        while command("read") != (BLANK,):
            command("left")
        scribe.phase("output")
        scribe.answer()
        command("right")
        while (symbol := command("read")) != (BLANK,):
            scribe.output(*symbol)
            command("right")

    def answer(self, problem: Problem) -> tuple[str, ...]:
        return self.machine.run(problem.prompt)

    def parse(self, text: str) -> Problem:
        tape = tuple(text.replace(" ", ""))
        if not tape or not set(tape) <= set(self.machine.symbols):
            raise UserError(f"{text!r} is not an input of machine {self.machine.name}: expected symbols from "
                            f"{' '.join(self.machine.symbols)}")
        self.machine.run(tape)
        return Problem(tape, len(tape))
