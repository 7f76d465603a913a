"""Hostile files, and what reads them."""

import functools
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

from benchmarks.attackers.trial import HOST_MEMORY, Attack, Stage
from length_gen.datamodules import collection, text
from length_gen.lightning_modules.commands import command_line, main
from length_gen.lightning_modules.runs import checkpoints, load
from length_gen.tools import UserError

ROOT = Path(__file__).parents[2]


def reader(kind: str, name: str, make: Callable[[Path, Stage], None], read: Callable[[Path], Any],
           off: Callable[[], AbstractContextManager]) -> Attack:
    """Files of a folder that somebody has fetched, and what reads them."""

    def attempt(stage: Stage) -> str:
        folder = stage.open / "fetched"
        folder.mkdir()
        make(folder, stage)
        try:
            read(folder)
        except (UserError, SystemExit) as answer:
            if getattr(answer, "code", 2) != 2:  # run.py's, of one line
                raise
        return "its code is run" * stage.marker.exists()

    return Attack(kind, name, attempt, off, 20)


def meta(system: str) -> Callable[[Path, Stage], None]:
    """Makes a collection.json with this first message, in which MARKER stands for the marker's path."""
    return lambda folder, stage: (folder / collection.META).write_text(
        json.dumps({"system": system.replace("MARKER", str(stage.marker))})) and None


def prompt(folder: Path) -> Any:
    """The messages that an agent would get from a collection's folder."""
    from length_gen.tools.agent import prompt_messages

    return prompt_messages("task", collection.read_collection(folder).templates())


@contextmanager
def rendered() -> Iterator[None]:
    """Texts as templates of jinja."""
    import jinja2

    from length_gen.tools import agent as shipped

    with patch.object(collection, "fill", lambda *_: ""), \
            patch.object(shipped, "fill", lambda text, values: jinja2.Template(text).render(values)):
        yield


def shard(lines: Callable[[], Iterator[bytes]]) -> Callable[[Path, Stage], None]:
    """Makes a shard of trajectories of these lines."""
    def make(folder: Path, stage: Stage) -> None:
        with gzip.open(folder / "00000.jsonl.gz", "wb", 1) as file:
            file.writelines(lines())

    return make


RECORD = b'{"index":0,"n":0,"messages":[],"status":"","fixed":false,"needless":[]}\n'


def unbounded() -> AbstractContextManager:
    """Shards of any kind and size."""
    def records(path: Path) -> list[Any]:
        with gzip.open(path, "rt") as file:
            return [json.loads(line) for line in file]

    return patch.object(collection, "read_shard", records)


def any_file() -> AbstractContextManager:
    """JSON files of any kind and size."""
    def content(path: Path, *_: Any) -> Any:
        with open(path, "rb") as file:
            return json.loads(file.read(2 * HOST_MEMORY))

    return patch.object(collection, "read_json", content)


def planted(config: Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> Callable[[Path, Stage], None]:
    """A run folder, and a module beside it whose import leaves the marker."""

    def make(folder: Path, stage: Stage) -> None:
        (folder / "checkpoints").mkdir()
        torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", **(parameters or {})},
                   folder / "checkpoints/last.ckpt")
        (folder / "config.yaml").write_text(json.dumps(config))
        for place in (folder, Path.cwd(), folder / "checkpoints"):
            (place / "planted.py").write_text(f"open({str(stage.marker)!r}, 'w')\nclass Planted: pass\n")

    return make


class Pickled:
    """What makes a folder, the marker, where it is unpickled."""

    def __init__(self, stage: Stage) -> None:
        self.marker = str(stage.marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def pickled(folder: Path, stage: Stage) -> None:
    """Makes a checkpoint whose weights are `Pickled`."""
    (folder / "checkpoints").mkdir()
    torch.save({"state_dict": Pickled(stage)}, folder / "checkpoints/last.ckpt")


def evaluate(folder: Path) -> None:
    """By the command line, and in one's own program."""
    checkpoint = folder / "checkpoints/last.ckpt"
    try:
        main.main(["test", "--ckpt_path", str(checkpoint)])
    except SystemExit as answer:
        if answer.code != 2:
            raise
    load.load_run(checkpoint)


@contextmanager
def any_import() -> Iterator[None]:
    """Configurations may import anything."""
    with patch.object(command_line, "import_only", lambda *_: None), \
            patch.object(load, "import_only", lambda *_: None):
        yield


@contextmanager
def read_parameters() -> Iterator[None]:
    """So they may, and what a checkpoint says of its hyperparameters is taken for settings, as in Lightning's own."""
    def parse(cli: command_line.CLI) -> None:
        given = torch.load(cli.config.ckpt_path, weights_only=True)["hyper_parameters"]
        cli.config = cli.parser.parse_object({"model": {"backbone": given["backbone"]}}, cli.config)

    with any_import(), patch.object(command_line.CLI, "_parse_ckpt_path", parse):
        yield


def tokenizer(**parts: Any) -> Callable[[Path, Stage], None]:
    """Makes a tokenizer.json of these parts."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    return lambda folder, _: (folder / "tokenizer.json").write_text(json.dumps({"model": model, **parts})) and None


def encode(folder: Path) -> None:
    """Load a folder's tokenizer, and encode four characters."""
    text.TextCodec.load(str(folder)).ids("aaaa")


FILES = [
    reader("messages of a collection", "a template that runs a program", meta(
        "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}"), prompt, rendered),
    reader("messages of a collection", "a template that never ends", meta(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"), prompt, rendered),
    reader("messages of a collection", "a template that takes all memory", meta("{{ 'x' * 400000000 }}"), prompt,
           rendered),
    reader("files of trajectories", "a pipe", lambda folder, _: os.mkfifo(folder / "00000.jsonl.gz"),
           lambda folder: [*collection.read_records(folder)], unbounded),
    reader("files of trajectories", "a small file that unpacks to a large line", shard(
        lambda: iter([b" " * (1 << 20)] * 600)), lambda folder: [*collection.read_records(folder)], unbounded),
    reader("files of trajectories", "a small file of very many trajectories", shard(
        lambda: iter([RECORD * 10000] * 100)), lambda folder: [*collection.read_records(folder)], unbounded),
    reader("files of mini-swe-agent", "a device without end", lambda folder, _: os.symlink(
        "/dev/zero", folder / "a.traj.json"), lambda folder: collection.read_files(folder, folder, 9), any_file),
    reader("files of mini-swe-agent", "a pipe", lambda folder, _: os.mkfifo(folder / "a.traj.json"),
           lambda folder: collection.read_files(folder, folder, 9), any_file),
    reader("run folders", "a configuration that imports a module", planted(
        {"data": {"task": {"class_path": "planted.Planted"}}}), evaluate, any_import),
    reader("run folders", "a checkpoint that names a class in hyper_parameters", planted(
        yaml.safe_load((ROOT / "configs/mult.yaml").read_text()),
        {"hyper_parameters": {"backbone": {"class_path": "planted.Planted"}, "_instantiator": "planted.Planted"}}),
        evaluate, read_parameters),
    reader("run folders", "a checkpoint with pickled code", pickled, lambda folder: checkpoints.load_checkpoint(
        folder / "checkpoints/last.ckpt"), lambda: patch.object(checkpoints, "load_checkpoint", functools.partial(
            torch.load, weights_only=False))),
    reader("tokenizers", "ids without end", tokenizer(model={
        "type": "WordLevel", "vocab": {"a": 0, "b": 8 * 10**6}, "unk_token": "a"}), encode,
        lambda: patch.object(text, "IDS", 10**10)),
    reader("tokenizers", "a character that becomes millions", tokenizer(normalizer={
        "type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 21}),
        encode, lambda: patch.object(text, "check_tokenizer", lambda _: None)),
]


def other_users_settings(stage: Stage) -> str:
    """What another user has left in the folder of temporary files."""
    folder = stage.open / "mini-swe-agent"
    folder.mkdir()
    (folder / ".env").write_text(f"PLANTED={stage.token}\n")
    code = "import os, length_gen.tools.agent; print(os.environ.get('PLANTED'))"
    environment = {**os.environ, "TMPDIR": str(stage.open), "HOME": str(stage.folder), **settings_folder(stage)}
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return "settings of this user" * (stage.token in said.stdout)


def settings_folder(stage: Stage) -> dict[str, str]:
    """Variables that name the folder of mini-swe-agent's settings: none, so that the suite chooses."""
    return {}


def known_folder() -> AbstractContextManager:
    """A folder that all users know is that of mini-swe-agent's settings."""
    return patch(f"{__name__}.settings_folder", lambda stage: {
        "MSWEA_GLOBAL_CONFIG_DIR": str(stage.open / "mini-swe-agent")})


FILES.append(Attack("settings", "in a folder of another user", other_users_settings, known_folder))
