"""Generated Python code bases with one bug (paper, section 3).

n functions, one a file, call each other along a random directed acyclic graph. Each declares some of v0 .. v9, prints
some and passes some on. The bug: v10 is declared in `main` and printed in `foo`, but no function passes it along.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from length_gen.tools import UserError

SHORTEST, LONGEST = 2, 1000
RUN = "python3 main.py"
MISSING = "v10"

_SECOND_CALLER = 0.5


@dataclass(slots=True)
class Function:
    """One function: what it is given, declares, and does in order (`print` a variable, or call a function)."""

    name: str
    parameters: list[str]
    declared: dict[str, int] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}.py"


@dataclass(slots=True)
class CodeBase:
    """All functions by name, callers before callees: `main` first, `foo` last; `seed` names the code base.

    `step` "print v3" prints, any other step is the name of a function that is called.
    """

    seed: str
    functions: dict[str, Function]

    def __len__(self) -> int:
        return len(self.functions)

    def files(self) -> dict[str, bytes]:
        """Content of each file, with the bug."""
        return {function.file: self._source(function).encode() for function in self.functions.values()}

    def _source(self, function: Function) -> str:
        callees = [step for step in function.steps if step in self.functions]
        lines = [f"from {name} import {name}" for name in callees]
        lines += ["", ""] if callees else []
        lines.append(f"def {function.name}({', '.join(function.parameters)}):")
        lines += [f"    {name} = {value}" for name, value in function.declared.items()]
        for step in function.steps:
            if step in self.functions:
                lines.append(f"    {step}({', '.join(self.functions[step].parameters)})")
            else:
                lines.append(f"    print({step.removeprefix('print ')})")
        if not function.declared and not function.steps:
            lines.append("    pass")
        if function.name == "main":
            lines += ["", "", "main()"]
        return "\n".join(lines) + "\n"

    def to_fix(self) -> set[str]:
        """Names of the functions that must get v10 as a parameter: all on a path from `main` to `foo`, but `main`."""
        needed = {"foo"}
        for name in reversed(self.functions):  # callees come after their callers
            if needed & set(self.functions[name].steps):
                needed.add(name)
        return needed - {"main"}

    def expected(self, value: int) -> list[str]:
        """What the fixed code prints if v10 is declared as `value`; found by interpreting the steps, not by Python."""
        lines: list[str] = []

        def call(name: str, arguments: Sequence[int]) -> None:
            function = self.functions[name]
            variables = dict(zip(function.parameters, arguments, strict=True)) | function.declared | {MISSING: value}
            for step in function.steps:
                if callee := self.functions.get(step):
                    call(step, [variables[p] for p in callee.parameters])
                else:
                    lines.append(str(variables[step.removeprefix("print ")]))

        call("main", ())
        return lines


def code_base(seed: str, n: int) -> CodeBase:
    """The code base of n functions that belongs to (seed, n).

    Every function but main has one caller among those before it, half of them a second one: the number of functions to
    fix grows like the square root of n. Raises UserError unless 2 <= n <= 1000.
    """
    if not SHORTEST <= n <= LONGEST:
        raise UserError(f"{n} functions are not possible: a code base has {SHORTEST} (main and foo) to {LONGEST}")
    rng = random.Random(f"code base/{seed}/{n}")
    names = ["main", *(f"f{i}" for i in rng.sample(range(1000), n - 2)), "foo"]
    functions = [Function(name, [] if name == "main" else _variables(rng, 1, 3)) for name in names]
    callees: list[list[int]] = [[] for _ in names]
    for i in range(1, n):
        callers = {rng.randrange(i)}
        if rng.random() < _SECOND_CALLER:
            callers.add(rng.randrange(i))
        for caller in sorted(callers):
            callees[caller].append(i)
    for function, called in zip(functions, callees, strict=True):
        _fill(rng, function, [functions[i] for i in called])
    return CodeBase(f"{seed}/{n}", {function.name: function for function in functions})


def _fill(rng: random.Random, function: Function, callees: Sequence[Function]) -> None:
    printed = _variables(rng, 0, 2)
    needed = dict.fromkeys([*printed, *(p for callee in callees for p in callee.parameters)])
    function.declared = {name: rng.randrange(100) for name in needed if name not in function.parameters}
    if function.name == "main":
        function.declared[MISSING] = rng.randrange(100)
    if function.name == "foo":
        printed.append(MISSING)
    function.steps = [f"print {name}" for name in printed] + [callee.name for callee in callees]
    rng.shuffle(function.steps)


def _variables(rng: random.Random, fewest: int, most: int) -> list[str]:
    return [f"v{i}" for i in rng.sample(range(10), rng.randint(fewest, most))]
