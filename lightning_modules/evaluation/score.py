"""Scores of a benchmark's problems: what any model wrote, or answered, judged as the suite judges its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from length_gen.datamodules.benchmark import Benchmark, Entry
from length_gen.datamodules.settings import SETTINGS
from length_gen.datamodules.trajectory import STYLES
from length_gen.lightning_modules.evaluation.metrics import (
    REASONS,
    LengthMetrics,
    Record,
    as_passes,
    exact_up_to,
    shares,
    wilson_interval,
)
from length_gen.lightning_modules.evaluation.outcome import Outcome, judge
from length_gen.lightning_modules.evaluation.tables import percent
from length_gen.tools import UserError
from length_gen.tools.files import parsed

MISSING = "missing"
"""Reason of a problem that the file does not have, though it has others of its cell: it counts as not solved."""

LONGEST = 2**28
"""Most characters of a line."""


@dataclass(frozen=True, slots=True)
class Given:
    """A line of a file: what a model wrote (`written`, tokens), or its answer alone (`answer`, blanks ignored)."""

    written: list[str] | None
    answer: str | None


def read_given(path: str | Path, benchmark: str) -> tuple[Benchmark, str, dict[tuple[str, int], dict[str, Given]]]:
    """The lines of a file, by task and length, and then by id; their benchmark, in their style and setting; and their
    split.

    Raises UserError, with the line's number, for what is no such line.
    """
    found: dict[tuple[str, int], dict[str, Given]] = {}
    kinds: set[tuple[str, str, str, bool]] = set()
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}: give one of JSON lines, see docs/benchmark.md")
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    key, kind, given = _parsed(line, f"{path}, line {number}")
                    kinds.add(kind)
                    if key[2] in (cell := found.setdefault(key[:2], {})):
                        raise UserError(f"{path}, line {number}: {key[2]} a second time: give each problem once")
                    cell[key[2]] = given
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a file of JSON lines") from error
    if len(kinds) != 1:
        raise UserError(f"{path} has {'no lines' if not kinds else 'lines of several kinds'}: expected one split, "
                        f"style and setting, and either trajectories or answers")
    (split, style, setting, _), = kinds
    return Benchmark(benchmark, style, setting), split, found


def _parsed(line: str, where: str) -> tuple[tuple[str, int, str], tuple[str, str, str, bool], Given]:
    try:
        if len(line) > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} characters")
        content = parsed(line)
        name, written, answer = content["id"], content.get("written"), content.get("answer")
        split, task, _, _, length, index = name.split("/")
        style, setting = content.get("style", "local"), content.get("setting", "interactive")
        if style not in STYLES or setting not in SETTINGS:
            raise ValueError(f"style {style!r} and setting {setting!r}: expected {' or '.join(STYLES)}, and one of "
                             f"{', '.join(SETTINGS)}")
        if (written is None) == (answer is None):
            raise ValueError("expected either `written` or `answer`")
        if not isinstance(written, list | None) or not all(isinstance(token, str) for token in written or ()):
            raise ValueError("`written` is no list of tokens")
        if not isinstance(answer, str | None) or not index.isdecimal():
            raise ValueError("`answer` is no text" if index.isdecimal() else f"index {index} is no number")
        return (task, int(length), name), (split, style, setting, written is None), Given(written, answer)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else error
        raise UserError(f'{where} is not possible ({what}): expected {{"id": "test/addition//uniform/10/0", "written": '
                        f'["p1.init", ...]}}, or "answer": "123"') from None


def score(benchmark: Benchmark, split: str, given: dict[tuple[str, int], dict[str, Given]]) -> Iterator[Record]:
    """A record for each cell of which the file has a problem; those of it that it has not are not solved.

    Raises UserError for problems that the benchmark does not have.
    """
    order = {name: place for place, name in enumerate(benchmark.tasks)}
    for (name, length), lines in sorted(given.items(), key=lambda item: (order.get(item[0][0], 0), item[0][1])):
        if length not in benchmark.lengths(name, split):
            raise UserError(f"{benchmark.name} has no {split} problems of {name} of length {length}: expected one of "
                            f"{', '.join(map(str, benchmark.lengths(name, split)))}")
        task, rest, cells = benchmark.tasks[name], dict(lines), {}
        for entry in benchmark.cell(split, name, length):
            key = entry.problem.variant, entry.problem_set
            cells.setdefault(key, []).append((entry, rest.pop(entry.id, None)))
        if rest:
            raise UserError(f"{benchmark.name} has no problem {next(iter(rest))}")
        for (variant, problem_set), pairs in cells.items():
            if not any(line for _, line in pairs):
                continue
            metric = LengthMetrics(task.name, length, variant=variant, problem_set=problem_set, setting=task.setting,
                                   style=task.style, phases=task.phases, reasons=(*REASONS, MISSING))
            for entry, line in pairs:
                metric.update(outcome(entry, line))
            yield metric.compute()


def outcome(entry: Entry, given: Given | None) -> Outcome:
    """What a line gave: a trajectory is written again, with the real tool, as in a rollout."""
    if given is None or given.written is None:
        right = given is not None and "".join(given.answer.split()) == "".join(entry.task.answer(entry.problem))
        return Outcome(False, right, 0, 0, None, None, 0, 0, "end" if given else MISSING, "given")
    row = entry.start()
    row.engine = "given"
    for token in given.written:
        if row.reason:
            break
        row.write(token)
    row.tool.close()
    row.reason = row.reason or "budget"  # it stopped before its end
    return judge(row, entry.task, entry.reference)


def citation(benchmark: Benchmark, split: str, records: list[Record], answers: bool, program: str) -> str:
    """One line to cite: the share of problems, the lengths up to which all is right, and whose problems they are."""
    records = as_passes(records) if answers else records
    solved, count = (sum(round(r["exact_match"] * r["problems"]) if share else r["problems"] for r in records)
                     for share in (True, False))
    low, high = wilson_interval(solved, count)
    reached = {name: exact_up_to(shares(r for r in records if r["task"] == name))
               for name in dict.fromkeys(r["task"] for r in records)}
    what = "answers right" if answers else f"trajectories exact (style {benchmark.style})"
    return (f"{benchmark.name}, {split}, {benchmark.setting}: {percent(solved / count)} of {count:,} {what} (95% "
            f"{percent(low)} to {percent(high)}); all up to length "
            + ", ".join(f"{length:,} in {name}" for name, length in reached.items())
            + f"; problems {benchmark.known_digest()[:12]}, {program}")
