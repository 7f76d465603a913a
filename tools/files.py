"""Reads files that others may have made: regular ones alone, and no more of them than an honest one may hold; writes
files whole.

What is wrong with a file is a ValueError, or an OSError of the system; whoever reads adds what the user can do.
"""

import gzip
import itertools
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

SETTINGS = 2**20
"""Most bytes of a file of settings (a configuration, a machine); the suite's own have a few thousand."""

NODES = 100_000
"""Most values in a YAML file, each counted as often as it stands somewhere by an alias."""

RECORDS = 2**26
"""Most bytes of a file of results, or of one trajectory; those of SWE-bench take some millions."""


@contextmanager
def opened(path: str | os.PathLike, most: int) -> Iterator[BinaryIO]:
    """A regular file of at most `most` bytes; no pipe, which one would wait for, and no device, which has no end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if status.st_size > most:
            raise ValueError(f"it has {status.st_size:,} bytes, and at most {most:,} are read")
        yield file


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """All of a regular file; raises ValueError for another, or one of more than `most` bytes."""
    with opened(path, most) as file:
        content = bytearray()
        while piece := file.read(2**20):  # some system files have more than their size says
            content += piece
            if len(content) > most:
                raise ValueError(f"it has more than the {most:,} bytes that are read")
        return bytes(content)


def read_text(path: str | os.PathLike, most: int) -> str:
    """The same as text in UTF-8; raises ValueError where it is none."""
    return read_bytes(path, most).decode("utf-8")


def read_json(path: str | os.PathLike, most: int = RECORDS) -> Any:
    """The content of a file of JSON; raises ValueError where it is none, or as `read_bytes`."""
    return parsed(read_text(path, most))


def parsed(text: str) -> Any:
    """The content of a text in JSON; raises ValueError where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested too deeply: {error}") from None


def gzip_lines(path: str | os.PathLike, packed: int, unpacked: int, longest: int) -> Iterator[str]:
    """The lines of a gzip file, unpacked as they are asked for; the three are its most bytes, and those of a line."""
    total = 0
    with opened(path, packed) as file, gzip.GzipFile(fileobj=file) as content:
        while line := content.readline(longest + 1):
            total += len(line)
            if len(line) > longest or total > unpacked:
                raise ValueError(f"it unpacks to more than the {unpacked:,} bytes, or the {longest:,} in a line, that "
                                 f"are read")
            yield line.decode("utf-8")


def read_yaml(path: str | os.PathLike, most: int = SETTINGS) -> Any:
    """The content of a YAML file whose aliases do not make it larger than `NODES` values."""
    text = read_text(path, most)
    try:
        check_yaml(text)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError as error:
        raise ValueError(f"it is nested too deeply: {error}") from None


def check_yaml(text: str) -> None:
    """Raises ValueError or yaml.YAMLError if a text is no YAML, or stands for more than `NODES` values."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None and _values(root, {}) > NODES:
        raise ValueError(f"it holds more than {NODES:,} values")


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node stands for, its aliases written out; ValueError if it stands in itself."""
    key = id(node)
    if key not in known:
        known[key] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = itertools.chain.from_iterable(parts) if isinstance(node, yaml.MappingNode) else parts
        known[key] = 1 + sum(_values(part, known) for part in pairs)
    if known[key] is None:
        raise ValueError("it holds a value that stands in itself")
    return known[key]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to that becomes `path` when the block ends well; readers never see half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
