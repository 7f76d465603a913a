"""Benchmarks of fixed problems, for models that nothing here has trained: problems, tools, lines of solutions.

Imports no torch.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from length_gen.datamodules import tasks
from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.tasks import Problem, ToolTask
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.trajectory import Trajectory
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml

FOLDER = Path(__file__).parent
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Entry:
    """A problem of a benchmark.

    id:   `split/task/variant/set/length/index`, the set `uniform` or `structured`
    task: which has the tool and the answer, in the benchmark's style and setting
    """

    id: str
    task: ToolTask
    problem: Problem
    problem_set: str

    @property
    def question(self) -> str:
        """All of the question, tokens with blanks between."""
        return " ".join(self.problem.prompt)

    @cached_property
    def reference(self) -> Trajectory:
        """The trajectory that is exact."""
        return self.task.record(self.problem)

    def start(self) -> Rollout:
        """A rollout that has read the question: give it `write`, token by token, until it has a `reason`."""
        row = Rollout(self.problem, budget(self.reference), self.task.tool(self.problem),
                      self.task.shown(self.problem))
        row.read()
        return row

    def line(self, solution: Rollout | str) -> str:
        """A line of a file that `score` reads: of a rollout what the model wrote; or an answer, blanks ignored."""
        if isinstance(solution, str):
            return json.dumps({"id": self.id, "answer": solution}) + "\n"
        written = [token for token, kind in zip(solution.tokens, solution.kinds, strict=True)
                   if kind not in (Kind.PROMPT, Kind.OBSERVATION)]
        return json.dumps({"id": self.id, "style": self.task.style, "setting": self.task.setting,
                           "written": written}) + "\n"


class Benchmark:
    """Problems that stay the same for good: a file of this folder names tasks, lengths and their digests.

    Args:
        name: of the file, such as `length-gen-v1`
        style: of commands; the tool takes those of either
        setting: how the tasks are asked, see `datamodules.settings`
    """

    def __init__(self, name: str = "length-gen-v1", style: str = "local", setting: str = "interactive") -> None:
        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(path.stem for path in FOLDER.glob("length-gen-*.yaml")))
            raise UserError(f"there is no benchmark {name}: expected {known}")
        content = read_yaml(path)
        self.name, self.style, self.setting, self._seed = name, style, setting, content["seed"]
        self._problems, self._facts = content["problems"], content["tasks"]
        self.tasks = {key: self._task(facts) for key, facts in self._facts.items()}

    def _task(self, facts: dict[str, Any]) -> ToolTask:
        machine = [facts["machine"]] if "machine" in facts else []
        return getattr(tasks, facts["class"])(*machine, facts["max_length"], self.style, self.setting)

    def lengths(self, task: str, split: str = "test") -> list[int]:
        """Of a task's problems. Raises UserError if there is no such task or split."""
        if task not in self.tasks or split not in SPLITS:
            raise UserError(f"{self.name} has no {split} problems of {task}: expected {' or '.join(SPLITS)} problems "
                            f"of {', '.join(self.tasks)}")
        return self._facts[task][split]

    def entries(self, split: str = "test", tasks: Iterable[str] | None = None,
                lengths: Iterable[int] | None = None) -> Iterator[Entry]:
        """All problems of a split, task by task, and in each from short to long; or those of some tasks and lengths."""
        for name in self.tasks if tasks is None else tasks:
            for length in self.lengths(name, split):
                if lengths is None or length in lengths:
                    yield from self.cell(split, name, length)

    def cell(self, split: str, name: str, length: int) -> Iterator[Entry]:
        """The problems of a task and length: of each variant those drawn at random, then the structured ones."""
        task = self.tasks[name]
        for variant in task.variants_at(length):
            sets = {"uniform": [task.problem(split, self._seed, length, index, variant)
                                for index in range(self._problems)],
                    "structured": task.structured_problems(split, self._seed, length, variant)}
            for problem_set, problems in sets.items():
                start = f"{split}/{name}/{variant}/{problem_set}/{length}"
                for index, problem in enumerate(problems):
                    yield Entry(f"{start}/{index}", task, problem, problem_set)

    def digest(self, name: str) -> str:
        """SHA-256 of the questions and answers of a task's test problems, each a line of JSON."""
        found = hashlib.sha256()
        for entry in self.entries("test", [name]):
            line = [entry.id, entry.problem.prompt, entry.task.answer(entry.problem)]
            found.update((json.dumps(line) + "\n").encode())
        return found.hexdigest()

    def known_digest(self, name: str | None = None) -> str:
        """The digest of a task that the benchmark's file has; None: of all of them."""
        if name is not None:
            return self._facts[name]["digest"]
        return hashlib.sha256("".join(map(self.known_digest, self.tasks)).encode()).hexdigest()
