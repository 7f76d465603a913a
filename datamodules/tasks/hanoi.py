"""Tower of Hanoi, iterative with one pointer and recursive with two (paper, section 3 and appendix D.4)."""

import random
import re
from itertools import chain, pairwise

from length_gen.datamodules.questions import FIRST, LAST, Questions
from length_gen.datamodules.tasks.base import Problem, ToolTask
from length_gen.datamodules.tokens import ANSWER
from length_gen.datamodules.trajectory import Pointer, Scribe
from length_gen.tools import EDGE, PointerMemory, UserError

RODS = ("A", "B", "C")
SIZES = tuple(str(size) for size in range(1, 101))
FORWARD, BACKWARD = ">", "<"
"""Mark before a state of the rods: the smallest disk always goes A -> B -> C -> A, or always the other way round."""


class Hanoi(ToolTask):
    """What both algorithms share: n disks of distinct sizes from 1..100 on rod A, to be brought to rod C.

    The question is the rods with the largest disk first, `A 90 40 7 B C =`; the answer is the 2^n - 1 moves, each a
    disk, the rod that it leaves and the rod that it goes to: `7 A C`. Length: number of disks.
    """

    names = SIZES
    longest = 20  # 12 disks take 4,095 moves, 20 over a million

    def questions(self, variant: str) -> Questions:
        """Any number of disks, and of any sizes: the algorithms do not look at them."""
        return ((FIRST, "A", "A"), ("A", SIZES, "disks"), ("disks", SIZES, "disks"), ("disks", "B", "B"),
                ("B", "C", "C"), ("C", "=", LAST))

    def sample(self, rng: random.Random, length: int, variant: str = "") -> Problem:
        return self._problem(rng.sample(range(1, len(SIZES) + 1), length))

    def structured(self, rng: random.Random, length: int, variant: str) -> list[Problem]:
        """Disks of neighbouring sizes, the smallest and the largest ones, far apart, and with a gap."""
        most, half = len(SIZES), length // 2
        disks = [range(1, length + 1), range(most - length + 1, most + 1), range(1, most + 1, most // length)[:length],
                 [*range(1, half + 1), *range(most - (length - half) + 1, most + 1)]]
        return [self._problem(list(sizes)) for sizes in disks]

    def longest_problem(self) -> Problem:
        return self._problem(list(range(1, self.max_length + 1)))

    def answer(self, problem: Problem) -> tuple[str, ...]:
        """The moves by number: move m takes the disk of m's lowest bit, and its rods follow from m modulo 3."""
        disks = problem.prompt[-4:0:-1]
        rods = RODS if len(disks) % 2 else ("A", "C", "B")
        moves = ((disks[(m & -m).bit_length() - 1], rods[(m & (m - 1)) % 3], rods[((m | (m - 1)) + 1) % 3])
                 for m in range(1, 2 ** len(disks)))
        return tuple(chain.from_iterable(moves))

    def parse(self, text: str) -> Problem:
        disks = [int(part) for part in re.findall(r"\d+", text)]
        if not re.fullmatch(r"A?[\d\s,]+(B\s*C\s*=?)?", text.strip(), re.ASCII) or not disks \
                or disks[-1] < 1 or disks[0] > len(SIZES) or any(a <= b for a, b in pairwise(disks)):
            raise UserError(f"{text!r} is not a problem of {self.name}: expected the sizes of the disks on rod A, "
                            f"falling, from 1..{len(SIZES)}, like 90 40 7")
        self.check_length(len(disks))
        return self._problem(disks)

    @staticmethod
    def _problem(disks: list[int]) -> Problem:
        return Problem(("A", *map(str, sorted(disks, reverse=True)), "B", "C", "="), len(disks))


class HanoiIterative(Hanoi):
    """Moves the smallest disk every other time, always the same way round, and between that the one other disk that
    can move: the smallest that is not on the smallest disk's rod.

    The memory for `A 40 7 B C =`, thoughts and outputs::

        C B >              one letter a disk; the last is where the smallest disk goes first, the mark says the same
          7 A 40 A         state: the disks, smallest first, each with its rod
        [ANS] 7 A B [ANS]  a move, the only part that is output
        > 7 B 40 A         the state after it, copied token by token with one rod replaced
        [ANS] 40 A C [ANS] > 7 B 40 C
        [ANS] 7 B C [ANS]  > 7 C 40 C

    The paper's states are rod by rod; here they are in the order of the disks, so that no two sizes need comparing.
    The pointer passes a state twice, once to find the move and once to copy; then it goes on to the new state. In
    style `local` the commands carry whose turn it is, which way the smallest disk goes, and on which rod it is.

    12 disks take about 590,000 tokens.
    """

    name = "hanoi_iterative"
    symbols = (*RODS, "=", FORWARD, BACKWARD, *SIZES)
    phases = ("count", "list", "to_small", *(f"{step}{mark}" for step in ("look", "rewind", "move") for mark in "><"),
              "rest_small", "to_big", "look", *(f"{step}_{rod}" for step in ("look", "rewind", "move") for rod in RODS),
              "rest_big")

    def memory(self) -> PointerMemory:
        return PointerMemory(1)

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("count")
        pointer = scribe.pointer(1)
        self._first_state(scribe, pointer)
        while True:
            self._move_smallest(scribe, pointer)
            if not self._move_other(scribe, pointer):
                break

    @staticmethod
    def _first_state(scribe: Scribe, pointer: Pointer) -> None:
        letter = "B"
        pointer.right()
        while pointer.read() != "B":
            letter = "C" if letter == "B" else "B"
            scribe.think(letter)
            pointer.right()
        scribe.think(FORWARD if letter == "B" else BACKWARD)
        scribe.phase("list")
        pointer.left()
        while (disk := pointer.read()) != "A":
            scribe.think(disk, "A")
            pointer.left()

    def _move_smallest(self, scribe: Scribe, pointer: Pointer) -> None:
        scribe.phase("to_small")
        mark = _to_mark(pointer.right, pointer)
        scribe.phase(f"look{mark}")
        disk, rod = self._next(pointer)
        self._write_move(scribe, disk, rod, _after(rod, mark))
        scribe.phase(f"rewind{mark}")
        _to_mark(pointer.left, pointer)
        scribe.phase(f"move{mark}")
        scribe.think(mark)
        scribe.think(_after(self._copy_disk(scribe, pointer), mark))
        self._copy_rest(scribe, pointer, "rest_small")

    def _move_other(self, scribe: Scribe, pointer: Pointer) -> bool:
        """Move the smallest disk that is not on the smallest disk's rod; False if there is none: all is done."""
        scribe.phase("to_big")
        _to_mark(pointer.right, pointer)
        scribe.phase("look")
        _, home = self._next(pointer)
        scribe.phase(f"look_{home}")
        rod = home
        while rod == home:
            disk, rod = self._next(pointer)
            if disk == EDGE:
                return False
        self._write_move(scribe, disk, rod, _third(home, rod))
        scribe.phase(f"rewind_{home}")
        mark = _to_mark(pointer.left, pointer)
        scribe.phase(f"move_{home}")
        scribe.think(mark)
        rod = home
        while rod == home:
            rod = self._copy_disk(scribe, pointer)
            scribe.think(home if rod == home else _third(home, rod))
        self._copy_rest(scribe, pointer, "rest_big")
        return True

    @staticmethod
    def _next(pointer: Pointer) -> tuple[str, str]:
        """The next disk of a state and its rod; the disk is [EDGE] after the last."""
        pointer.right()
        disk = pointer.read()
        if disk == EDGE:
            return disk, ""
        pointer.right()
        return disk, _rod(pointer)

    @staticmethod
    def _copy_disk(scribe: Scribe, pointer: Pointer) -> str:
        """Copy the next disk of a state, and return its rod."""
        pointer.right()
        scribe.think(pointer.read())
        pointer.right()
        return _rod(pointer)

    @staticmethod
    def _write_move(scribe: Scribe, disk: str, rod: str, target: str) -> None:
        scribe.answer()
        scribe.output(disk, rod, target)
        scribe.answer()

    @staticmethod
    def _copy_rest(scribe: Scribe, pointer: Pointer, phase: str) -> None:
        scribe.phase(phase)
        pointer.right()
        while (token := pointer.read()) != ANSWER:
            if token == EDGE:
                raise ValueError("no move follows the state that is copied")
            scribe.think(token)
            pointer.right()


class HanoiRecursive(Hanoi):
    """Writes the moves of the i smallest disks for i = 1..n, each list from the one before.

    The memory for `A 40 7 B C =`, thoughts and, after [ANS], outputs::

        # 7 A C                       one disk
        [ANS] 7 A B 40 A C 7 B C      two: the list before with B and C swapped, disk 2 from A to C, and the list
                                      before with A and B swapped

    Pointer 1 is on the disks and looks one ahead to know the last list, which starts with [ANS]; pointer 2 is on the
    list before, and goes over it twice. 12 disks take about 135,000 tokens.
    """

    name = "hanoi_recursive"
    symbols = (*RODS, "=", "#", *SIZES)
    phases = ("to_disks", "peek", "first", "only", "to_list", "swap_BC", "disk", "rewind", "swap_AB")

    def memory(self) -> PointerMemory:
        return PointerMemory(2)

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("to_disks")
        disks = scribe.pointer(1)
        disks.walk_right("B")
        last = self._start_list(scribe, disks)
        scribe.phase("only" if last else "first")
        self._move_largest(scribe, disks, last)
        if last:
            return
        scribe.phase("to_list")
        moves = scribe.pointer(2)
        moves.walk_right("#")
        while not last:
            last = self._start_list(scribe, disks)
            self._copy_swapped(scribe, moves, last, "BC")
            scribe.phase("disk")
            self._move_largest(scribe, disks, last)
            scribe.phase("rewind")
            moves.left()
            while moves.read() != "#":
                moves.left()
            self._copy_swapped(scribe, moves, last, "AB")

    @staticmethod
    def _start_list(scribe: Scribe, disks: Pointer) -> bool:
        """Start the list of the next disk, the left neighbour of the one under `disks`; tells whether it is the last.

        Leaves the pointer one further to the left.
        """
        scribe.phase("peek")
        disks.left()
        disks.left()
        last = disks.read() == "A"
        scribe.think(ANSWER if last else "#")
        return last

    @staticmethod
    def _move_largest(scribe: Scribe, disks: Pointer, last: bool) -> None:
        disks.right()
        (scribe.output if last else scribe.think)(disks.read(), "A", "C")

    @staticmethod
    def _copy_swapped(scribe: Scribe, moves: Pointer, last: bool, pair: str) -> None:
        """Write the list after the '#' under `moves` with two rods swapped; the pointer ends on the next list's start.
        """
        scribe.phase(f"swap_{pair}")
        write = scribe.output if last else scribe.think
        one, other = pair
        moves.right()
        while (token := moves.read()) not in ("#", ANSWER):
            write(other if token == one else one if token == other else token)
            moves.right()
        if last != (token == ANSWER):
            raise ValueError("the list that is copied is not followed by the one that is written")


def _after(rod: str, mark: str) -> str:
    """The rod that the smallest disk goes to."""
    return RODS[(RODS.index(rod) + (1 if mark == FORWARD else 2)) % 3]


def _third(rod: str, other: str) -> str:
    """The rod that is neither."""
    return next(third for third in RODS if third not in (rod, other))


def _rod(pointer: Pointer) -> str:
    """The rod under a pointer."""
    if (rod := pointer.read()) not in RODS:
        raise ValueError("no rod follows a disk: the state of the rods is torn")
    return rod


def _to_mark(move, pointer: Pointer) -> str:
    """Move until the pointer reads the mark before a state, at least once."""
    while True:
        move()
        if (symbol := pointer.read()) in (FORWARD, BACKWARD):
            return symbol
