"""The command `score`: a benchmark's table for trajectories or answers of any model."""

from rich.console import Console

from length_gen.lightning_modules.evaluation.metrics import as_passes, write_metrics
from length_gen.lightning_modules.evaluation.score import citation, read_given
from length_gen.lightning_modules.evaluation.score import score as scored
from length_gen.lightning_modules.evaluation.tables import records_table
from length_gen.lightning_modules.provenance import program


def score(file: str, benchmark: str = "length-gen-v1", out: str | None = None) -> None:
    """Score what a model wrote, or answered, of a benchmark's problems; how to get it: docs/benchmark.md.

    Trajectories are written again with the real tool, so that no observation is believed. Of a task, variant, problem
    set and length of which the file has a problem, those that it has not count as not solved.

    Args:
        file: a line of JSON for each problem: its `id`, and `written` (tokens) or `answer` (text)
        benchmark: whose problems they are
        out: a file for the records, as in metrics.json; null: none
    """
    problems, split, given = read_given(file, benchmark)
    records = list(scored(problems, split, given))
    answers = all(line.written is None for lines in given.values() for line in lines.values())
    console = Console(emoji=False, highlight=False)
    title = f"{benchmark}, {split}, {problems.setting}" + f", {problems.style}" * (not answers)
    console.print(records_table(as_passes(records) if answers else records, title=title,
                                measure="answers right" if answers else "exact match"))
    line = citation(problems, split, records, answers, program())
    console.print("To cite:", line, soft_wrap=True, markup=False)
    if out is not None:
        write_metrics(out, records, benchmark=benchmark, problems=problems.known_digest(), split=split, cite=line)
