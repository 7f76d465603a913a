"""Scripted agents for the code bases: they see what a model sees, and answer with one bash command a message.

Each is a policy, messages so far -> next message, to be run in the real agent loop.
"""

import re
from collections.abc import Mapping, Sequence

from length_gen.datamodules.codebases import MISSING, RUN

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
PRINT_ALL = "tail -n +1 *.py"
RUN_QUIETLY = f"{RUN} > /dev/null"

_FRAME = re.compile(r'  File "[^"]*/(\w+)\.py", line \d+, in (\S+)\n(?:    (.*)\n)?')
_FILE = re.compile(r"==> (\w+)\.py <==\n(.*?)(?=\n==> |\n*</output>)", re.DOTALL)

Message = Mapping[str, str]


def message(thought: str, command: str) -> str:
    """What an agent writes: a thought, and one command in the form that mini-swe-agent's text models use."""
    return f"{thought}\n\n```mswea_bash_command\n{command}\n```"


def edits(needed: Mapping[str, Sequence[str]]) -> str:
    """A command that passes v10 on: function -> names of the definition and calls in its file that get it first."""
    return "\n".join("sed -i '" + ";".join(f"s/ {name}(/&{MISSING}, /" for name in names) + f"' {file}.py"
                     for file, names in needed.items())


def listed(names: Sequence[str]) -> str:
    """The names' files in a sentence: `f1.py, f2.py and f3.py`."""
    files = [f"{name}.py" for name in names]
    return files[0] if len(files) == 1 else f"{', '.join(files[:-1])} and {files[-1]}"


def interactive(messages: Sequence[Message]) -> str:
    """Run the code, fix up to three files, run it again, until it runs clean (paper, section 3)."""
    observation = messages[-1]["content"]
    if len(messages) <= 2 or "Traceback" not in observation:
        run = message("Run it.", RUN_QUIETLY)
        clean = "<returncode>0</returncode>" in observation and messages[-2]["content"] == run
        return message("It runs clean.", SUBMIT) if clean else run
    needed = dict(list(traced(observation).items())[:3])
    return message(f"Pass {MISSING} on in {listed(list(needed))}.", edits(needed))


def traced(observation: str) -> dict[str, list[str]]:
    """What a traceback shows to be missing, from the innermost function outwards: function -> names, as for `edits`."""
    frames = [match.groups() for match in _FRAME.finditer(observation)][1:]  # the first is the module's call of main
    needed: dict[str, list[str]] = {}
    callee = "" if "NameError" in observation else frames[-1][2].partition("(")[0]
    for k in reversed(range(len(frames))):
        _, function, _ = frames[k]
        has_it = function == "main" or MISSING in (frames[k - 1][2] or "")
        needed[function] = ([] if has_it else [function]) + ([callee] if callee else [])
        if has_it:
            break
        callee = function
    return needed


def single_turn(messages: Sequence[Message]) -> str:
    """Print all files, then write all edits at once (paper, section 3), after noting who calls what, from foo on."""
    if len(messages) <= 2:
        return message("Print all files.", PRINT_ALL)
    sources = dict(_FILE.findall(messages[-1]["content"]))
    calls = {name: re.findall(r"^    (f\w+)\(", source, re.MULTILINE) for name, source in sources.items()}
    callers: dict[str, list[str]] = {}
    queue = ["foo"]
    for name in queue:  # it grows on the way
        callers[name] = [caller for caller, called in calls.items() if name in called]
        queue += [caller for caller in callers[name] if caller not in (*queue, "main")]
    names = {name: [name, *(c for c in callers if name in callers[c])] for name in queue}
    names["main"] = [c for c in callers if "main" in callers[c]]
    thought = "\n".join(f"{name} is called in {listed(found)}." for name, found in callers.items())
    return message(thought, f"{edits(names)}\n{SUBMIT}")


AGENTS = {"interactive": interactive, "single_turn": single_turn}
