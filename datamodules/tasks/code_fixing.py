"""Code fixing: a model repairs a code base through bash, in mini-swe-agent's loop (paper, section 3)."""

import hashlib
import os
import random
import re
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from length_gen.datamodules.codebases import LONGEST, RUN, SHORTEST, CodeBase, code_base
from length_gen.datamodules.collection import (
    META,
    PACKED,
    SPLITS,
    TASK,
    Record,
    average_characters,
    read_collection,
    read_records,
    shards,
    split,
    summary,
)
from length_gen.datamodules.judge import check
from length_gen.datamodules.noise import Noise
from length_gen.datamodules.scripted import AGENTS, PRINT_ALL, SUBMIT
from length_gen.datamodules.tasks.base import Problem, Task
from length_gen.datamodules.text import END_OF_MESSAGE, TextCodec
from length_gen.datamodules.tokens import END, Kind
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import Tool, UserError, system
from length_gen.tools.files import opened, read_bytes
from length_gen.tools.sandbox import Limits, Sandbox

TOKENS = 2**33
"""Most bytes of the file of tokens, five for each."""

PHASES = ("run", "read", "fix", "submit", "other")


@dataclass(slots=True)
class Tokens:
    """Tokens of many trajectories: ids [sum of lengths], kinds likewise; trajectory i is [starts[i], starts[i + 1]).

    splits: numbers of the trajectories that each of `SPLITS` has
    """

    ids: np.ndarray
    kinds: np.ndarray
    starts: np.ndarray
    splits: dict[str, np.ndarray]


class CodeFixing(Task):
    """A generated code base of n functions whose v10 is not passed from main to foo. Length: n.

    Training trajectories are read from a folder that `python run.py collect` wrote. A message of the agent is many
    command tokens, the last of them [EOM]; it is answered by the observation, which [EOM] ends too. With the kinds of
    the tokens below (Q prompt, C command, O observation, E end token)::

        You repair ... [EOM] Run it. ```mswea_bash_command python3 main.py > /dev/null ``` [EOM]
        QQQQQQQQQQQQQQ QQQQQ CCCCCCC CCCCCCCCCCCCCCCCCCCCC CCCCCCCCCCCCCCCCCCCCCCCCCCCCCC CCCCC
        <returncode>1</returncode> <output> Traceback ... NameError: name 'v10' is not defined </output> [EOM]
        OOOOOOOOOOOOOOOOOOOOOOOOOO OOOOOOOO OOOOOOOOOOOOO OOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOO OOOOOOOOO OOOOO
        Pass v10 on in foo.py and main.py. ``` ... ``` [EOM] ...   It runs clean. ``` echo COMPLETE... ``` [EOM] [END]
        CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC CCCCCCCCCCC CCCCC OOO   CCCCCCCCCCCCCC CCCCCCCCCCCCCCCCCCCCCC CCCCC EEEEE

    A rollout is solved if the code that is left runs and prints what it should, however that came about. A twentieth of
    the trajectories each is held out for the validation and the test loss (`datamodules.collection.split`).

    Args:
        trajectories: folder of the training trajectories; what agent made them is the task's `setting`. To evaluate
            where they are not, a run's own folder will do, with its tokenizer.json as the tokenizer; rows of the loss
            are then made on the spot, slowly
        max_length: most functions of a training trajectory's code base
        tokenizer: a folder, file or hub name of a tokenizer; null: a BPE trained on the training trajectories,
            kept beside them
        vocab_size: of that BPE
        digits: most digits of a number that are one token of it
        shorter_than_average: only trajectories that are shorter than the average for their n (paper: distillation)
        unsandboxed: run what a model writes as it is on this machine, where there is no bubblewrap
        seconds: time limit of one command
    """

    name = "code_fixing"
    style = "paper"
    phases = PHASES
    shortest, longest = SHORTEST, LONGEST
    truncated = passes = True
    streamed = False

    def __init__(self, trajectories: str, max_length: int = 16, tokenizer: str | None = None, vocab_size: int = 1024,
                 digits: int = 1, shorter_than_average: bool = False, unsandboxed: bool = False,
                 seconds: float = 10.0) -> None:
        self.check_length(max_length)
        self.max_length, self.unsandboxed, self.limits = max_length, unsandboxed, Limits(seconds)
        self.folder, self._shorter = Path(trajectories), shorter_than_average
        self.collection = read_collection(trajectories)
        self.setting = self.collection.agent
        self.codec = self._codec(tokenizer, vocab_size, digits)
        self._vocabulary = self.codec.vocabulary
        self._references: dict[str, Trajectory] = {}
        self._prompt = tuple(self._message_tokens(self._first_messages()))

    # What is trained on

    def records(self) -> list[Record]:
        """The trajectories that fixed their code, of the lengths that are asked for: training and held-out ones."""
        records = list(read_records(self.folder))
        if not records:
            raise UserError(f"there are no trajectories in {self.folder}: collect some with python run.py collect "
                            f"{self.folder}")
        records = [record for record in records if record["fixed"] and record["n"] <= self.max_length]
        if self._shorter:
            summaries = [summary(record) for record in records]
            average = average_characters(summaries)
            records = [r for r, s in zip(records, summaries, strict=True) if s["characters"] < average[s["n"]]]
        if not records:
            raise UserError(f"no trajectory in {self.folder} fixed its code with at most {self.max_length} functions")
        return records

    def trajectory_lengths(self) -> np.ndarray:
        """Tokens of each training trajectory, int64 [trajectories]; none where the folder holds no trajectories."""
        return np.diff(self._tokens.starts)[self._tokens.splits["training"]] if self._tokens else np.zeros(0, np.int64)

    @cached_property
    def _contents(self) -> str:
        """A hash of the trajectories and of which of them are chosen."""
        digest = hashlib.sha256(f"{self.max_length} {self._shorter}".encode())
        for path in shards(self.folder):
            with suppress(OSError, ValueError):  # it is left out
                digest.update(path.name.encode() + hashlib.sha256(read_bytes(path, PACKED)).digest())
        return digest.hexdigest()

    def _codec(self, name: str | None, vocab_size: int, digits: int) -> TextCodec:
        if name:
            return TextCodec.load(name)

        def train(path: Path) -> None:
            records = self.records()
            chosen = split([record["index"] for record in records])["training"][:5000]
            texts = (message["content"] for i in chosen for message in records[i]["messages"])
            TextCodec.train(texts, vocab_size, digits).save(path)

        return TextCodec.load(str(self._kept(f"tokenizer_{vocab_size}_{digits}_{self._contents[:16]}.json", train)))

    @cached_property
    def _tokens(self) -> Tokens | None:
        """All trajectories as tokens, kept beside them in a file; None if there is none."""
        if not shards(self.folder):
            return None

        def encode(path: Path) -> None:
            records = self.records()
            trajectories = [self.trajectory(record["messages"]) for record in records]
            ids = [self._vocabulary.encode(t.tokens).astype(np.uint32) for t in trajectories]
            kinds = np.frombuffer(b"".join(t.kinds for t in trajectories), dtype=np.uint8)
            np.savez(path, ids=np.concatenate(ids), kinds=kinds, starts=np.cumsum([0, *map(len, ids)]),
                     **split([record["index"] for record in records]))

        facts = hashlib.sha256((self._contents + self.codec.tokenizer.to_str()).encode())
        path = self._kept(f"tokens_{facts.hexdigest()[:16]}.npz", encode)
        try:
            return read_tokens(path, len(self._vocabulary))
        except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not whole ({type(error).__name__}): delete it; it is made anew") from error

    def _kept(self, name: str, make: Callable[[Path], None]) -> Path:
        """A file beside the trajectories, made by the first process that needs it while others wait for it."""
        path = self.folder / name
        if path.is_file():
            return path
        try:
            with system.lock(self.folder / ".lock", wait=True):
                if not path.is_file():
                    temporary = self.folder / f".{os.getpid()}.{name}"
                    try:
                        make(temporary)
                        temporary.replace(path)
                    finally:
                        temporary.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): tokenizer and tokens are kept beside the "
                            f"trajectories; copy those to a folder that can be written to") from error
        return path

    def trajectory(self, messages: list[dict[str, str]]) -> Trajectory:
        """The messages of an agent, from the first two on, as tokens and kinds."""
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        tokens = self._message_tokens(messages[:first])
        kinds, phases = bytearray([Kind.PROMPT]) * len(tokens), []
        for message in messages[first:]:
            own = message["role"] == "assistant"
            if own:
                phases.append((len(tokens), phase_of(message["content"])))
            new = self._message_tokens([message])
            tokens += new
            kinds += bytearray([Kind.COMMAND if own else Kind.OBSERVATION]) * len(new)
        return Trajectory([*tokens, END], kinds + bytearray([Kind.END]), phases)

    def _message_tokens(self, messages: list[dict[str, str]]) -> list[str]:
        return [*self.codec.encode("\n".join(message["content"] for message in messages)), END_OF_MESSAGE]

    def _first_messages(self) -> list[dict[str, str]]:
        from length_gen.tools.agent import prompt_messages

        return prompt_messages(TASK, self.collection.templates())

    # Problems

    def sample(self, rng: random.Random, length: int, variant: str = "") -> Problem:
        return self._problem(f"problem/{rng.getrandbits(128)}", length)

    def sample_training(self, rng: random.Random) -> Problem:
        if self._tokens is None:  # the scripted agent at work, a few a second
            return self.sample(rng, rng.randint(*self.collection.lengths))
        return self._drawn(rng, "training")

    def sample_held_out(self, rng: random.Random, split: str) -> Problem:
        """One of the trajectories that are kept apart for the loss of a split."""
        return self.sample_training(rng) if self._tokens is None else self._drawn(rng, split)

    def _drawn(self, rng: random.Random, split: str) -> Problem:
        return Problem((), 0, source=int(rng.choice(self._tokens.splits[split])))

    def longest_problem(self) -> Problem:
        if self._tokens is None:
            return self.sample_training(random.Random(0))
        return Problem((), 0, source=int(self._tokens.splits["training"][self.trajectory_lengths().argmax()]))

    def parse(self, text: str) -> Problem:
        match = re.fullmatch(r"\s*(\d{1,4})(?:/(\w+))?\s*", text)
        if not match:
            raise UserError(f"{text!r} is not a problem of code fixing: expected a number of functions and a seed, "
                            f"like 16/1")
        self.check_length(int(match[1]))
        return self._problem(f"typed/{match[2] or 0}", int(match[1]))

    def _problem(self, seed: str, length: int) -> Problem:
        return Problem(self._prompt, length, source=code_base(seed, length))

    def answer(self, problem: Problem) -> tuple[str, ...]:
        return ()

    def record(self, problem: Problem, noise: Noise | None = None, sink: None = None) -> Trajectory:
        """A training trajectory, or what the scripted agent really does about a code base."""
        if noise:
            raise UserError("mistakes are not possible in code fixing, whose trajectories are read from files: give "
                            "--data.mistakes 0")
        if not isinstance(problem.source, CodeBase):
            tokens = self._tokens
            part = slice(*tokens.starts[problem.source : problem.source + 2])
            return Trajectory(self._vocabulary.decode(tokens.ids[part]), bytearray(tokens.kinds[part]), [])
        return self.references([problem])[0]

    def references(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """What the scripted agent really does about each code base; several at a time, and each only once."""
        missing = {problem.source.seed: problem for problem in problems if problem.source.seed not in self._references}
        with ThreadPoolExecutor(2 * system.cores()) as pool:
            self._references.update(zip(missing, pool.map(self._reference, missing.values()), strict=True))
        return [self._references[problem.source.seed] for problem in problems]

    def _reference(self, problem: Problem) -> Trajectory:
        from length_gen.tools.agent import PolicyModel, run_agent

        with Sandbox(self.limits, self.unsandboxed) as sandbox:
            sandbox.write(problem.source.files())
            policy = AGENTS.get(self.setting, AGENTS["interactive"])
            messages, _ = run_agent(PolicyModel(policy), sandbox, TASK, self.collection.templates())
        return self.trajectory(messages)

    def solved(self, problem: Problem, outputs: tuple[str, ...], reason: str, tool: Tool) -> bool:
        """Runs the code that was left, for whatever reason the rollout ended."""
        return check(problem.source, tool.files, self.unsandboxed).fixed

    # The rest of a task

    def tool(self, problem: Problem) -> Tool:
        from length_gen.tools.agent import AgentTool

        return AgentTool(self.codec, TASK, self.collection.templates(), self.limits, self.unsandboxed,
                         problem.source.files())

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def save(self, folder: str | Path) -> None:
        """The tokenizer, as tokenizer.json, and what the trajectories were."""
        self.codec.save(Path(folder) / "tokenizer.json")
        (Path(folder) / META).write_text((self.folder / META).read_text(encoding="utf-8"), encoding="utf-8")


def read_tokens(path: Path, size: int) -> Tokens:
    """What `CodeFixing` keeps of its trajectories, for a vocabulary of `size`. Raises ValueError and others if it is
    something else."""
    with opened(path, TOKENS) as file:
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type or member.file_size > TOKENS for member in archive.infolist()):
                raise ValueError("its arrays are compressed")
        with np.load(file, allow_pickle=False) as arrays:
            ids, kinds, starts, *splits = (arrays[name] for name in ("ids", "kinds", "starts", *SPLITS))
    count = len(starts) - 1
    if not ((ids.dtype, kinds.dtype, starts.dtype) == (np.uint32, np.uint8, np.int64)
            and ids.ndim == starts.ndim == 1 and ids.shape == kinds.shape
            and count and starts[0] == 0 and starts[-1] == len(ids) and (np.diff(starts) > 0).all()
            and (ids < size).all() and (kinds <= max(Kind)).all()
            and all(part.dtype == np.int64 and part.ndim == 1 and len(part)
                    and ((part >= 0) & (part < count)).all() for part in splits)):
        raise ValueError("its arrays do not fit together")
    return Tokens(ids, kinds, starts, dict(zip(SPLITS, splits, strict=True)))


def phase_of(message: str) -> str:
    """What an agent's message is for, by its command."""
    command = message.partition("```mswea_bash_command\n")[2]
    starts = {RUN: "run", PRINT_ALL: "read", "sed": "fix", SUBMIT: "submit"}
    return next((phase for start, phase in starts.items() if command.startswith(start)), "other")
