"""Trajectories as files of Parquet, for other people's trainers: messages by role, or tokens with the loss's mask."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from length_gen.datamodules.stream import VERSION, Item, TrajectoryStream
from length_gen.datamodules.tokens import END, PREDICTED, Kind
from length_gen.tools import UserError
from length_gen.tools.files import SETTINGS, atomic_path, read_json

if TYPE_CHECKING:
    import pyarrow

FORMATS = ("messages", "tokens")
META = "data.json"
UNKNOWN = "[UNK]"
SPLITS = {"training": "train", "validation": "validation", "test": "test"}
"""Splits of the stream, by the names that `datasets` has for them."""

GROUP = 2**18
"""Tokens of a row group, about: what is in memory at a time."""

USER, ASSISTANT, TOOL = range(3)
ROLES = ("user", "assistant", "tool")
_ROLE = np.full(max(Kind) + 1, ASSISTANT)
_ROLE[Kind.PROMPT], _ROLE[Kind.OBSERVATION] = USER, TOOL
_MASK = np.isin(np.arange(max(Kind) + 1), list(PREDICTED)).astype(np.int8)

TEMPLATE = (
    "{%- for message in messages -%}{%- if not loop.first %} {% endif -%}{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] -}}{%- if loop.last -%}{%- if message['content'] %} {% endif -%}"
    f"{END}{{%- endif -%}}{{%- endgeneration -%}}{{%- else -%}}{{{{- message['content'] -}}}}{{%- endif -%}}"
    "{%- endfor -%}")
"""The chat template that makes a trajectory of its messages: tokens with a blank between, and [END] in the last."""


@dataclass(frozen=True)
class Export:
    """What a folder of files holds: all that their bytes depend on.

    first: SHA-256 of the first trajectories, which tells what the names do not: a task's other settings, its code
    """

    format: str
    split: str
    task: str
    style: str
    setting: str
    max_length: int
    seed: int
    mistakes: float
    corrupted: float
    shard_size: int
    stream: int
    first: str

    @property
    def name(self) -> str:
        """Of its configuration in a data set of several."""
        return "-".join([self.task, str(self.max_length), *(part.replace(", ", "-and-")
                                                            for part in (self.style, self.setting))])


def export_of(stream: TrajectoryStream, format: str, shard_size: int) -> Export:
    """What the files of a stream are. Raises UserError for what messages cannot say."""
    if format == "messages" and stream.mistakes:
        raise UserError("messages cannot say that a mistake is not to be learnt, a role is learnt or not: give "
                        "--format tokens, or --data.mistakes 0")
    task, digest = stream.task, hashlib.sha256()
    if format == "messages" and not task.streamed:
        raise UserError(f"the trajectories of {task.name} are messages already: datasets.load_dataset('json', "
                        f"data_files='FOLDER/*.jsonl.gz') reads those that collect wrote; give --format tokens for "
                        f"tokens")
    for i in range(32):
        item = stream[i]
        digest.update(" ".join(stream.vocabulary.decode(item.ids)).encode() + bytes(item.kinds))
    return Export(format, stream.split, task.name, task.style, task.setting, task.max_length, stream.seed,
                  stream.mistakes, stream.corrupted, shard_size, VERSION, digest.hexdigest())


def start_export(folder: Path, export: Export, stream: TrajectoryStream) -> None:
    """Note what is written, with the tokenizer; raises UserError if the folder holds something else.

    The split may be another: the files of each have its name.
    """
    path = folder / META
    content = asdict(export)
    if path.exists():
        try:
            there = read_json(path, SETTINGS)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): give another --out") from error
        splits = there.get("splits", {})
        known = there | splits.get(export.split, {key: content[key] for key in ("split", "seed", "first")})
        if different := [key for key in content if known.get(key) != content[key]]:
            raise UserError(f"{folder} holds trajectories with another {', '.join(different)}: give another --out or "
                            f"--name")
    else:
        there, splits = {}, {}
        folder.mkdir(parents=True, exist_ok=True)
        stream.task.save(folder)
        if not (folder / "tokenizer.json").exists():
            write_tokenizer(folder, stream.vocabulary.tokens)
    own = {key: content.pop(key) for key in ("split", "seed", "first")}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content | {"splits": splits | {export.split: own}}, indent=1) + "\n",
                             encoding="utf-8")


def write_tokenizer(folder: Path, tokens: tuple[str, ...]) -> None:
    """The vocabulary as a tokenizer of `transformers`, whose chat template gives a trajectory's own tokens.

    One id more is for what is none of its tokens: trainers try a tokenizer on words of their own.
    """
    special = {"id": tokens.index(END), "content": END, "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
    model = {"type": "WordLevel", "vocab": {token: i for i, token in enumerate([*tokens, UNKNOWN])},
             "unk_token": UNKNOWN}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
                 "pre_tokenizer": split, "post_processor": None, "decoder": None, "model": model}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END, "unk_token": UNKNOWN,
                "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE}
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def shard_path(folder: Path, split: str, number: int) -> Path:
    """File number `number` of a split."""
    return folder / f"{SPLITS[split]}-{number:05}.parquet"


def write_shard(folder: Path, stream: TrajectoryStream, format: str, number: int, size: int, count: int) -> int:
    """File number `number` of trajectories, `size` in each and `count` in all; returns its tokens.

    What is there with as many stays. The same stream gives the same bytes.
    """
    import pyarrow.parquet as parquet

    path = shard_path(folder, stream.split, number)
    wanted = range(number * size, min((number + 1) * size, count))
    if path.is_file() and (there := _written(path))[0] >= len(wanted):
        return there[1]
    tokens = 0
    with atomic_path(path) as temporary:
        writer = None
        try:
            for first, items in _groups(stream, wanted):
                tokens += sum(len(item.ids) for item in items)
                table = table_of(stream, format, first, items)
                if writer is None:
                    writer = parquet.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
            writer.add_key_value_metadata({"tokens": str(tokens)})
        finally:
            if writer:
                writer.close()
    return tokens


def _written(path: Path) -> tuple[int, int]:
    """Trajectories and tokens of a file. Raises UserError if it is not whole."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        facts = parquet.read_metadata(path)
        return facts.num_rows, int(facts.metadata[b"tokens"])
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not what was written here ({error}): delete it, and it is made again") from error


def _groups(stream: TrajectoryStream, wanted: range) -> Iterator[tuple[int, list[Item]]]:
    """Trajectories in groups of about `GROUP` tokens, each with the number of its first."""
    first, items, tokens = wanted.start, [], 0
    for index in wanted:
        items.append(stream[index])
        tokens += len(items[-1].ids)
        if tokens >= GROUP:
            yield first, items
            first, items, tokens = index + 1, [], 0
    if items:
        yield first, items


def table_of(stream: TrajectoryStream, format: str, first: int, items: list[Item]) -> "pyarrow.Table":
    """Trajectories number `first` and on as rows.

    index, length, variant: of the stream, of the problem
    messages:               [{role, content}]: the question is the user's, what the model writes the assistant's, what
                            the tool says the tool's; without [END], and empty where the model says no more than that
    input_ids:              of the task's vocabulary, int32
    assistant_masks:        1 where there is a loss
    kinds:                  a `Kind` for each token
    """
    import pyarrow as pa

    starts = np.concatenate([[0], np.cumsum([len(item.ids) for item in items])])
    ids, kinds = (np.concatenate([getattr(item, name) for item in items]) for name in ("ids", "kinds"))
    columns = {"index": pa.array(np.arange(first, first + len(items))),
               "length": pa.array([item.length for item in items], pa.int32()),
               "variant": pa.array([item.variant for item in items], pa.string())}
    if format == "tokens":
        values = {"input_ids": ids.astype(np.int32), "assistant_masks": _MASK[kinds], "kinds": kinds}
        return pa.table(columns | {name: pa.ListArray.from_arrays(starts.astype(np.int32), pa.array(value))
                                   for name, value in values.items()})
    roles, contents, offsets = _messages(stream, ids, kinds, starts)
    messages = pa.StructArray.from_arrays([pa.array(ROLES).take(pa.array(roles)), contents], ["role", "content"])
    return pa.table(columns | {"messages": pa.ListArray.from_arrays(offsets.astype(np.int32), messages)})


def _messages(stream: TrajectoryStream, ids: np.ndarray, kinds: np.ndarray,
              starts: np.ndarray) -> tuple[np.ndarray, "pyarrow.StringArray", np.ndarray]:
    """Role and content of all messages, and where those of each trajectory begin.

    A message ends where another's begins; [END] is a token of the assistant's that is not said.
    """
    import pyarrow as pa

    roles, ended = _ROLE[kinds], kinds == Kind.END
    begins = np.flatnonzero(np.diff(roles, prepend=-1) | np.isin(np.arange(len(ids)), starts))
    last = np.append(begins[1:], len(ids)) - 1
    last -= ended[last] & (last > begins)
    # All contents in one text, cut by offsets: a Python string for each would take longer than the recording.
    names = stream.vocabulary.tokens
    blank, bare = (np.array([name + mark for name in names], dtype=object) for mark in (" ", ""))
    words, sizes = blank[ids], np.array([len(name.encode()) + 1 for name in names])[ids]
    words[last], sizes[last] = bare[ids[last]], sizes[last] - 1
    words[ended], sizes[ended] = "", 0
    offsets = np.concatenate([[0], np.cumsum(sizes)])[np.append(begins, len(ids))].astype(np.int32)
    contents = pa.StringArray.from_buffers(len(begins), pa.py_buffer(offsets),
                                           pa.py_buffer("".join(words.tolist()).encode()))
    return roles[begins], contents, np.searchsorted(begins, starts)


def card(folder: Path) -> str:
    """The data set's card: of all configurations below a folder, what they are and how to read them."""
    found: dict[str, dict[str, Any]] = {path.parent.name: read_json(path, SETTINGS)
                                        for path in sorted(folder.glob(f"*/{META}"))}
    lines = ["---", "license: apache-2.0", "pretty_name: Tool-use trajectories for length generalization", "tags:",
             "- tool-use", "- length-generalization", "- synthetic", "configs:"]
    for name, facts in found.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in facts["splits"]:
            lines += [f"  - split: {SPLITS[split]}", f"    path: {name}/{SPLITS[split]}-*.parquet"]
    lines += ["---", "# Tool-use trajectories", "",
              "Solutions of algorithmic problems, each written by an algorithm that uses a real tool: every "
              "observation is what the tool said. Row i of a split is trajectory i of the stream of its seed, however "
              "many rows there are.", "", "| configuration | format | split | trajectories | tokens | seed |",
              "|---|---|---|---|---|---|"]
    for name, facts in found.items():
        for split, own in facts["splits"].items():
            sizes = [_written(path) for path in sorted((folder / name).glob(f"{SPLITS[split]}-*.parquet"))]
            rows, tokens = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
            lines.append(f"| {name} | {facts['format']} | {SPLITS[split]} | {rows:,} | {tokens:,} | {own['seed']} |")
    name = next(iter(found), "NAME")
    lines += ["", "A name says task, largest length, style and setting. Columns: `index`, `length` (of the problem), "
              "`variant`, and", "", "- of format messages: `messages`, each with `role` and `content`: the question is "
              "the user's, thoughts, commands and outputs are the assistant's, observations the tool's. A message is "
              "tokens with blanks between.",
              "- of format tokens: `input_ids`, `assistant_masks` (1 where there is a loss) and `kinds` ("
              + ", ".join(f"{kind.value} {kind.name.lower()}" for kind in Kind if kind) + ").", "",
              "```python", "from datasets import load_dataset", "from transformers import AutoTokenizer", "",
              f'data = load_dataset("DIR", "{name}")',
              f'tokenizer = AutoTokenizer.from_pretrained("DIR/{name}")   # the task\'s own tokens',
              "```", "", "Both formats go to TRL's `SFTTrainer` as they are: messages with "
              "`SFTConfig(assistant_only_loss=True, max_length=None)`, tokens with `SFTConfig(max_length=None)`, which "
              "learns where their masks are 1."]
    return "\n".join(lines) + "\n"
