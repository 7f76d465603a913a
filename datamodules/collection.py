"""Collects trajectories of agents in the real loop and sandbox into files, the same for the same seed."""

import gzip
import json
import os
import random
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from length_gen.datamodules.codebases import CodeBase, code_base
from length_gen.datamodules.judge import check
from length_gen.datamodules.scripted import AGENTS, SUBMIT
from length_gen.datamodules.typed import typed
from length_gen.tools import UserError
from length_gen.tools.files import RECORDS, SETTINGS, gzip_lines, parsed, read_json
from length_gen.tools.prompt import NAMES, fill
from length_gen.tools.sandbox import Limits, Sandbox, of_thread

TASK = (f"`python3 main.py` fails: v10 is declared in main.py and used in foo.py. Pass it along, then submit with "
        f"`{SUBMIT}`.")
META = "collection.json"

SPLITS = ("training", "validation", "test")
HELD_OUT = 0.05
"""Share of the trajectories that the validation loss and the test loss have each."""

PACKED, UNPACKED = 2**27, 2**29
"""Most bytes of a file of trajectories, and of what is in it; 200 of the scripted agents have 40,000 and 600,000."""

MOST_RECORDS, MOST_MESSAGES = 10_000, 1_000_000
"""Most trajectories in a file, and messages of all of them: each takes far more memory than its text may."""

Record = dict[str, Any]
"""A trajectory: `index`, `n`, `messages` (role and content each), `status` of the loop, `fixed`, `needless` files."""


@dataclass(frozen=True)
class Collection:
    """What is collected: everything that the trajectories depend on.

    agent:       `interactive` or `single_turn` (scripted), or `llm`: the model that `model` describes
    seed:        of the code bases
    lengths:     fewest and most functions of a code base; uniform between them
    shard_size:  trajectories in one file
    system, instance: the first two messages, in which {{task}} is what to do (`tools.prompt`); empty: short ones for
                 scripted agents, mini-swe-agent's own for an LLM
    step_limit:  most messages of an agent
    model:       mini-swe-agent's configuration of a model: `model_name`, `model_class`, `model_kwargs`, ...
    unsandboxed: run commands as they are on this machine
    """

    agent: str = "interactive"
    seed: int = 0
    lengths: tuple[int, int] = (4, 16)
    shard_size: int = 200
    system: str = ""
    instance: str = ""
    step_limit: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    unsandboxed: bool = False

    def __post_init__(self) -> None:
        if self.agent not in (*AGENTS, "llm", "files"):
            raise UserError(f"unknown agent {self.agent!r}: expected {', '.join(AGENTS)} or llm")
        low, high = self.lengths
        if not 2 <= low <= high <= 1000:
            raise UserError(f"lengths {list(self.lengths)} are not possible: expected two numbers from 2 to 1,000")
        if not 1 <= self.shard_size <= MOST_RECORDS:
            raise UserError(f"shard_size {self.shard_size} is not allowed: expected 1 to {MOST_RECORDS:,}")
        if self.agent == "llm" and not self.model.get("model_name"):
            raise UserError("agent llm needs a model: give --model with a model_name, such as "
                            "'{model_name: openai/NAME, model_kwargs: {api_base: http://HOST/v1}}'")
        for text in (self.system, self.instance):
            fill(text, dict.fromkeys(NAMES, ""))

    def templates(self):
        """The first two messages of its agents."""
        from length_gen.tools.agent import Templates, llm_templates

        if self.agent == "llm" and not self.system:
            return llm_templates(self.step_limit)
        return Templates(self.system or "You repair code by bash commands, one a message.",
                         self.instance or "{{task}}", self.step_limit)

    def code_base(self, index: int) -> CodeBase:
        """The code base of trajectory number `index`."""
        n = random.Random(f"collection/{self.seed}/{index}").randint(*self.lengths)
        return code_base(f"collection/{self.seed}/{index}", n)

    def record(self, index: int) -> Record:
        """Let the agent fix code base number `index`, and judge what it leaves."""
        from length_gen.tools.agent import PolicyModel, llm, run_agent

        code = self.code_base(index)
        model = llm(self.model) if self.agent == "llm" else PolicyModel(AGENTS[self.agent])
        # Scripted agents are trusted not to attack the sandbox: they may share one.
        shared = nullcontext(of_thread("agent", Limits(), self.unsandboxed)) if self.agent in AGENTS else \
            Sandbox(Limits(), self.unsandboxed)
        with shared as sandbox:
            sandbox.clear()
            sandbox.write(code.files())
            try:
                messages, status = run_agent(model, sandbox, TASK, self.templates())
            except Exception as error:
                if self.agent != "llm" or isinstance(error, UserError):
                    raise
                messages, status = [], _failure(error)
            files = sandbox.read()
        verdict = check(code, files, self.unsandboxed)
        return {"index": index, "n": len(code), "messages": [plain(m) for m in messages], "status": status,
                "fixed": verdict.fixed, "needless": list(verdict.needless)}

    def shard(self, folder: str, number: int, count: int) -> list[Record]:
        """Collect what is missing of file number `number`, of `count` trajectories in all; summaries of its records."""
        path = Path(folder) / f"{number:05}.jsonl.gz"
        start = number * self.shard_size
        records = read_shard(path) if path.is_file() else []
        if missing := range(start + len(records), min(start + self.shard_size, count)):
            records += [self.record(index) for index in missing]
            write_shard(path, records)
        return [summary(record) for record in records]


def _failure(error: Exception) -> str:
    """Status of a trajectory whose model gave up; raises UserError if it cannot be asked at all."""
    if type(error).__name__ in ("ContextWindowExceededError", "BadRequestError", "ContentPolicyViolationError"):
        return type(error).__name__
    raise UserError(f"the model cannot be asked ({type(error).__name__}: {' '.join(str(error).split())[:300]}): see "
                    f"--model; what has been collected stays") from error


def plain(message: dict[str, Any]) -> dict[str, str]:
    """A message's role and text; a command that came as a tool call is put into the text, as text models write it.

    Takes what mini-swe-agent's models write: text, tool calls, and items of OpenAI's Responses API, without a role.
    """
    response, content, role = message.get("object") == "response", message.get("content"), message.get("role")
    if response:
        role, content = "assistant", [part for item in message["output"] if item.get("type") == "message"
                                      for part in item["content"]]
    elif message.get("type") == "function_call_output":
        role, content = "tool", message["output"]
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    if role is None or not isinstance(content, str | None):
        raise ValueError(f"a message of no kind that is known, with the keys {', '.join(message)}")
    content = content or ""
    if role == "assistant":
        if response or message.get("tool_calls"):
            actions = (message.get("extra") or {}).get("actions") or []
            content += "".join(f"\n\n```mswea_bash_command\n{action['command']}\n```" for action in actions)
        content = content.strip()
    return {"role": role, "content": content}


def summary(record: Record) -> Record:
    """Of a trajectory: n, whether it was fixed, and numbers of needless files, turns and characters."""
    messages = record["messages"]
    return {"n": record["n"], "fixed": record["fixed"], "needless": len(record["needless"]),
            "turns": sum(m["role"] == "assistant" for m in messages),
            "characters": sum(len(m["content"]) for m in messages)}


def write_shard(path: Path, records: Sequence[Record]) -> None:
    """Write a file at once or not at all; the same records give the same bytes. UserError if it would be too large."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode("utf-8", "replace")
    if len(lines) > UNPACKED:
        raise UserError(f"{len(records)} trajectories of {len(lines):,} bytes are too many for one file, which holds "
                        f"{UNPACKED:,}: give a smaller --shard_size")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(gzip.compress(lines, 6, mtime=0))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_shard(path: Path) -> list[Record]:
    """All trajectories of a file. Raises UserError for one that is not whole, holds something else, or too much."""
    try:
        records, messages = [], 0
        for number, line in enumerate(gzip_lines(path, PACKED, UNPACKED, RECORDS), 1):
            records.append(_record(parsed(line)))
            if records[-1] is None:
                raise ValueError(f"line {number} is no trajectory")
            messages += len(records[-1]["messages"])
            if number > MOST_RECORDS or messages > MOST_MESSAGES:
                raise ValueError(f"more than {MOST_RECORDS:,} trajectories or {MOST_MESSAGES:,} messages")
        return records
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is not a whole file of trajectories ({_short(error)}): delete it and collect again"
                        ) from error


def _record(content: Any) -> Record | None:
    """What a record has, and nothing else; None if it has not."""
    kinds = {"index": int, "n": int, "messages": list, "status": str, "fixed": bool, "needless": list}
    if not (isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in kinds.items())
            and all(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
                    for m in content["messages"])
            and all(isinstance(file, str) for file in content["needless"])
            and (not content["fixed"] or any(m["role"] == "assistant" for m in content["messages"]))):
        return None
    # JSON can spell halves of characters, which are no text.
    messages = [{key: m[key].encode("utf-8", "replace").decode("utf-8") for key in ("role", "content")}
                for m in content["messages"]]
    return {key: content[key] for key in kinds} | {"messages": messages}


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def start_collection(folder: str, collection: Collection) -> None:
    """Note what is collected; raises UserError if the folder holds something else."""
    path = Path(folder) / META
    content = json.loads(json.dumps(asdict(collection)))
    del content["unsandboxed"]  # makes no difference
    content["model"].pop("model_kwargs", None)  # may hold a key
    if path.exists():
        there = json.loads(json.dumps(asdict(read_meta(path))))
        if different := [key for key in content if there[key] != content[key]]:
            raise UserError(f"{folder} holds trajectories with another {', '.join(different)}: give another --folder")
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_collection(folder: str | Path) -> Collection:
    """What a folder's trajectories are. Raises UserError if it is no such folder."""
    path = Path(folder) / META
    if not path.is_file():
        raise UserError(f"there are no trajectories in {folder}: collect some with python run.py collect {folder}")
    return read_meta(path)


def read_meta(path: Path) -> Collection:
    """What a collection.json says; raises UserError, with the key that is wrong, if `collect` did not write it."""
    try:
        return typed(Collection, read_json(path, SETTINGS), UserError)
    except (OSError, ValueError, RecursionError, UserError) as error:
        raise UserError(f"{path} is not what collect wrote beside the trajectories ({_short(error)}): copy it "
                        f"again from where they come from, or collect into another folder") from error


def shards(folder: str | Path) -> list[Path]:
    """The files of a folder's trajectories, in order."""
    return sorted(Path(folder).glob("*.jsonl.gz"))


def read_records(folder: str | Path) -> Iterator[Record]:
    """A folder's trajectories, in order; a file that is not whole is left out, and a warning names it."""
    for shard in shards(folder):
        try:
            yield from read_shard(shard)
        except UserError as error:
            warnings.warn(f"{error}; it is left out", stacklevel=2)


def split(indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Places of the trajectories of these indices that each of `SPLITS` has, int64 each, disjoint.

    An index belongs to the same split whatever is beside it: only where one of the two held-out splits would be empty
    does it get the one that is nearest. Raises UserError if there are fewer than three.
    """
    if len(indices) < len(SPLITS):
        raise UserError(f"{len(indices)} trajectories that can be trained on are too few: expected at least "
                        f"{len(SPLITS)}, for training, validation and test loss each; collect more")
    draws = np.array([random.Random(f"held out/{index}").random() for index in indices])
    order = np.argsort(draws, kind="stable")
    first, second = np.searchsorted(draws[order], [HELD_OUT, 2 * HELD_OUT])
    first = min(max(first, 1), len(draws) - 2)
    second = min(max(second, first + 1), len(draws) - 1)
    parts = zip(("validation", "test", "training"), np.split(order, [first, second]), strict=True)
    return {name: np.sort(part) for name, part in parts}


def average_characters(summaries: Sequence[Record]) -> dict[int, float]:
    """Mean length of the trajectories of each n."""
    lengths: dict[int, list[int]] = {}
    for record in summaries:
        lengths.setdefault(record["n"], []).append(record["characters"])
    return {n: sum(values) / len(values) for n, values in sorted(lengths.items())}


def read_files(source: str, folder: str, shard_size: int) -> list[Record]:
    """Take over mini-swe-agent's .traj.json files of a folder into shards; returns the records without messages.

    Whether their code was fixed is not known here: it counts as fixed if the agent submitted. n is 0 unless the file
    says it (`info.n`). A file that is no such trajectory is left out, and a warning names it; UserError if none is.
    """
    paths = sorted(Path(source).rglob("*.traj.json"))
    if not paths:
        raise UserError(f"there are no .traj.json files in {source}: give the folder that mini-swe-agent wrote them to")
    records = []
    for index, path in enumerate(paths):
        try:
            records.append(read_trajectory(path, index))
        except UserError as error:
            warnings.warn(f"{error}; it is left out", stacklevel=2)
    if not records:
        raise UserError(f"none of the {len(paths)} .traj.json files in {source} is a trajectory of mini-swe-agent: see "
                        f"the warnings, and give the folder that it wrote them to")
    for number, start in enumerate(range(0, len(records), shard_size)):
        write_shard(Path(folder) / f"{number:05}.jsonl.gz", records[start : start + shard_size])
    return [summary(record) for record in records]


def read_trajectory(path: Path, index: int = 0) -> Record:
    """One of mini-swe-agent's .traj.json files as a record."""
    try:
        content = read_json(path)
        info = content.get("info", {})
        messages = [plain(message) for message in content["messages"] if message.get("role") != "exit"]
        if not any(message["role"] == "assistant" for message in messages):
            raise ValueError("no message of an agent")
        status, n = info.get("exit_status") or "", int(info.get("n", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not a trajectory of mini-swe-agent ({type(error).__name__}: {_short(error)}): "
                        f"expected JSON with messages") from error
    return {"index": index, "n": n, "messages": messages, "status": str(status), "fixed": status == "Submitted",
            "needless": []}
