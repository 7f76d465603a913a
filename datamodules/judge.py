"""Judges a code base that an agent has left, by what it does: runs it in a sandbox of its own (paper, section 3)."""

import random
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from length_gen.datamodules.codebases import MISSING, CodeBase
from length_gen.tools.sandbox import Limits, Sandbox, SandboxError, of_thread

LIMITS = Limits()

_DECLARATION = re.compile(rf"\b({MISSING}[ \t]*(?::[^=\n#]{{0,100}})?=[ \t]*)(\d+)\b".encode())
"""A number that v10 is set to, with or without a type, wherever it stands in a line."""

_values = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the code that was left is right, and which files were changed without need.

    reason: why not; empty if it is
    """

    fixed: bool
    reason: str
    needless: tuple[str, ...]


def check(code: CodeBase, files: Mapping[str, bytes], unsandboxed: bool = False) -> Verdict:
    """Run the code that was left and compare what it prints on stdout; whatever was left, it is right or it is not.

    v10 is declared with two other values than the one that was visible, which nobody can foresee, so that only code
    that gets it from its declaration is right, however it does so. Of the files only Python's sources are taken over,
    into an empty sandbox that is not the agent's; HOME, installed packages and bytecode are not theirs. Needless are
    files that were added, removed, or changed although no path from main to foo needs it.
    """
    before = code.files()
    allowed = {"main.py", *(f"{name}.py" for name in code.to_fix())}
    changed = {name for name in before.keys() | files.keys() if before.get(name) != files.get(name)}
    needless = tuple(sorted(changed - allowed))
    sources = {name: content for name, content in files.items() if name.endswith(".py")}
    if len(sources) > LIMITS.files:
        return Verdict(False, f"more than {LIMITS.files} files", needless)
    visible, main = b"%d" % code.functions["main"].declared[MISSING], sources.get("main.py", b"")
    if all(number != visible for _, number in _DECLARATION.findall(main)):
        return Verdict(False, f"main.py does not declare {MISSING} as {int(visible)}, as it did", needless)
    values = [_values.choice([value for value in range(100) if b"%d" % value != visible]),
              _values.randrange(10**9, 10**12)]
    copies = {}
    for folder, value in enumerate(values):
        edited = sources | {"main.py": _DECLARATION.sub(
            lambda match, value=value: match[1] + b"%d" % value if match[2] == visible else match[0], main)}
        copies |= {f"{folder}/{name}": content for name, content in edited.items()}
    sandbox = judge_sandbox(unsandboxed)
    sandbox.clear()
    try:
        sandbox.write(copies)
    except SandboxError as error:
        return Verdict(False, f"its files cannot be written: {error}", needless)
    result = sandbox.run(f"HOME=/ exec python3 -I -S -B -c {_runner()} 0 1 2> /dev/null")
    if result.exceeded or result.returncode:
        return Verdict(False, result.exceeded or f"exit status {result.returncode}", needless)
    if result.output.splitlines() != [line for value in values for line in code.expected(value)]:
        return Verdict(False, "it prints something else", needless)
    return Verdict(True, "", needless)


def judge_sandbox(unsandboxed: bool) -> Sandbox:
    """This thread's sandbox for judging. Two copies of the sources are in it, and large code bases print much."""
    return of_thread("judge", replace(LIMITS, disk=2 * LIMITS.disk, files=2 * LIMITS.files, output=16 << 20),
                     unsandboxed)


@cache
def _runner() -> str:
    return shlex.quote(Path(__file__).with_name("judge_runner.py").read_text(encoding="utf-8"))
