"""Numbers in documents that people write: each comes from a record, or is said to be no measurement.

A file of claims (docs/claims.yaml) has

    names: ["# x #", "n x #"]                   # what is not measured wherever it stands; # is any number
    documents:
      README.md:
        claims:
        - says: "fixes {:.0%} of code bases of 16 functions"
          from: results/code_fixing_16/mamba_interactive_seed1.json
          values: ["records[?length==`16` && evaluator=='rollout'].exact_match | [0]"]
        plain: ["on two CPU cores, seed 42"]    # settings, limits, the paper's numbers: what was not measured here
        tables:
          packing:                              # stands between <!-- table: packing --> and <!-- end -->
            from: results/benchmarks/packing.json
            rows: records
            columns: {training: "{what}", padding: "{padding:.1%}"}

Paths start at the working folder. `values` and `rows` are JMESPath expressions, with `divide(a, b)`, `subtract(a, b)`
and `round(a, digits)` beside its own functions, on the file's content; on a list of contents where `from` has a `*`, on
a mapping from stems to contents where it is a list of files. The report's own are `curves`, `paper`, `grid`, `beacons`
and `first_errors`: every recipe, the rows of the paper's tables, the seeds that each cell of its grid has, the rows of
style `beacons_K`, and how often models err first where they must look furthest back. Where a line of a document ends
does not matter.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature

from length_gen.lightning_modules.reporting.text import NOTHING, table
from length_gen.tools import UserError
from length_gen.tools.files import read_json, read_yaml

NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?%?"
STANDING = re.compile(rf"(?<![\w.,/-])(?:{NUMBER})(?![\w/])")
"""A number of its own: not part of a word, a name or a version."""
NO_PROSE = re.compile(r"```.*?```|^ {4,}(?![ *-])[^\n]*$|`[^`]*`|\]\([^)]*\)|<!--.*?-->", re.S | re.M)
"""Code and the targets of links, whose numbers say nothing."""
BLOCK = "<!-- table: {} -->\n", "<!-- end -->"


class Own(Functions):
    """JMESPath's functions, division, subtraction and rounding."""

    @signature({"types": ["number"]}, {"types": ["number"]})
    def _func_divide(self, a: float, b: float) -> float:
        return a / b

    @signature({"types": ["number"]}, {"types": ["number"]})
    def _func_subtract(self, a: float, b: float) -> float:
        return a - b

    @signature({"types": ["number"]}, {"types": ["number"]})
    def _func_round(self, a: float, digits: int) -> float:
        return round(a, digits) if digits > 0 else int(round(a, digits))


def documents(path: Path, sources: Mapping[str, Any]) -> tuple[dict[Path, str], list[str]]:
    """The documents that a file of claims names, with their numbers filled in, and what is wrong with them, in lines.

    sources: what a claim may come from beside files
    Raises UserError for a file of claims that is none, or has a claim that no record answers.
    """
    try:
        content = read_yaml(path)
        texts, wrong = {}, []
        for name, parts in content["documents"].items():
            text = Path(name).read_text(encoding="utf-8")
            for block, spec in parts.get("tables", {}).items():
                text = _filled_table(name, text, block, spec, sources, wrong)
            for claim in parts.get("claims", ()):
                text = _filled(name, text, claim, sources, wrong)
            texts[Path(name)] = text
            wrong += [f"{name}: no record is named for {number}"
                      for number in _uncovered(text, parts, content.get("names", ()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no file of claims ({type(error).__name__}: {error}); expected documents with "
                        f"claims (says, from, values), plain and tables (from, rows, columns)") from error
    return texts, wrong


def _pattern(says: str) -> re.Pattern[str]:
    """What finds a sentence in a document; a group for each number to fill in."""
    literal = (_literal(text) + ("" if spec is None else f"({NUMBER})") for text, _, spec, _ in Formatter().parse(says))
    return re.compile("".join(literal))


def _literal(text: str) -> str:
    """A pattern of a text, whose spaces may be ends of lines."""
    return r"\s+".join(map(re.escape, re.split(r"\s+", text)))


def _filled(name: str, text: str, claim: Mapping[str, Any], sources: Mapping[str, Any], wrong: list[str]) -> str:
    found = list(_pattern(claim["says"]).finditer(text))
    if len(found) != 1:
        wrong.append(f"{name} has {len(found)} places that say: {claim['says']}")
        return text
    content = _content(claim["from"], sources)
    specs = [f"{{:{spec}}}" for _, _, spec, _ in Formatter().parse(claim["says"]) if spec is not None]
    if len(specs) != len(claim["values"]):
        raise ValueError(f"{len(claim['values'])} values for: {claim['says']}")
    for group, (spec, value) in reversed(list(enumerate(zip(specs, claim["values"], strict=True), 1))):
        start, end = found[0].span(group)
        text = text[:start] + spec.format(_found(value, content, claim["says"])) + text[end:]
    return text


def _filled_table(name: str, text: str, block: str, spec: Mapping[str, Any], sources: Mapping[str, Any],
                  wrong: list[str]) -> str:
    begin, end = BLOCK[0].format(block), BLOCK[1]
    before, mark, rest = text.partition(begin)
    if not mark or end not in rest:
        wrong.append(f"{name} has no place for the table {block}: {begin.strip()} and {end}")
        return text
    rows = _found(spec["rows"], _content(spec["from"], sources), block)
    known = {name for row in rows for name in row}
    lines = table(list(spec["columns"]), [[cell.format_map(_Row(row, known)) for cell in spec["columns"].values()]
                                          for row in rows])
    return before + mark + "\n" + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


class _Row(dict):
    """A row's values by name; a dash for one that other rows have. KeyError for one that none has."""

    def __init__(self, row: Mapping[str, Any], known: Collection[str]) -> None:
        super().__init__(row)
        self.known = known

    def __missing__(self, name: str) -> Any:
        if name not in self.known:
            raise KeyError(name)
        return _Nothing()


class _Nothing:
    def __format__(self, spec: str) -> str:
        return NOTHING


def _content(given: str | Sequence[str], sources: Mapping[str, Any]) -> Any:
    if not isinstance(given, str):
        return {Path(file).stem: read_json(file) for file in given}
    if given in sources:
        return sources[given]
    if "*" in given:
        return [read_json(file) for file in sorted(Path().glob(given))]
    return read_json(given)


def _found(expression: str, content: Any, says: str) -> Any:
    try:
        value = jmespath.search(expression, content, jmespath.Options(custom_functions=Own()))
    except JMESPathError as error:
        raise ValueError(f"{expression}: {error}") from error
    if value is None:
        raise ValueError(f"no record has {expression}, for: {says}")
    return value


def _uncovered(text: str, parts: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    """The numbers of a document that are in no claim, no table and not said to be plain, each with words around it."""
    patterns = [NO_PROSE, *(_pattern(claim["says"]) for claim in parts.get("claims", ())),
                *(re.compile(_literal(plain)) for plain in parts.get("plain", ())),
                *(re.compile(rf"(?<!\w){_literal(name).replace(chr(92) + '#', NUMBER)}(?!\w)") for name in names)]
    covered = [match.span() for pattern in patterns for match in pattern.finditer(text)]
    for block in parts.get("tables", ()):
        start = text.find(BLOCK[0].format(block))
        covered.append((start, text.find(BLOCK[1], start)))
    for match in STANDING.finditer(text):
        if not any(start <= match.start() and match.end() <= end for start, end in covered):
            yield f"{match[0]} in: " + " ".join(text[max(0, match.start() - 30) : match.end() + 30].split())
