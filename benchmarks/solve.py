"""A run of this suite, or the scripted agent, on the problems of a benchmark: a file for `python run.py score`.

    python benchmarks/solve.py runs/add/version_0 --out add.jsonl --lengths 10 100
    python benchmarks/solve.py scripted --out scripted.jsonl

A run solves the problems of its own task. The scripted agent is the algorithm of each task, which is the reference.
"""

import argparse
from collections.abc import Iterator

from length_gen.datamodules.benchmark import Benchmark, Entry
from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.runs.load import load_run
from length_gen.tools.files import atomic_path


def main() -> None:
    """Solve and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run, or `scripted`")
    parser.add_argument("--out", required=True)
    parser.add_argument("--benchmark", default="length-gen-v1")
    parser.add_argument("--split", default="test")
    parser.add_argument("--lengths", type=int, nargs="+", help="some of the benchmark's; by default all")
    options = parser.parse_args()
    if options.run == "scripted":
        benchmark = Benchmark(options.benchmark)
        solved = map(scripted, benchmark.entries(options.split, lengths=options.lengths))
    else:
        solved = of_run(options)
    with atomic_path(options.out) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(solved)


def scripted(entry: Entry) -> str:
    """The line of an agent that writes the reference, and looks at nothing else."""
    row = entry.start()
    for token, kind in zip(entry.reference.tokens, entry.reference.kinds, strict=True):
        if kind not in (Kind.PROMPT, Kind.OBSERVATION):
            row.write(token)
    return entry.line(row)


def of_run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of a trained model, a length at a time."""
    run = load_run(options.run)
    benchmark = Benchmark(options.benchmark, run.task.style, run.task.setting)
    name = run.task.name
    for length in benchmark.lengths(name, options.split):
        if options.lengths and length not in options.lengths:
            continue
        entries = list(benchmark.cell(options.split, name, length))
        rows: list[Rollout] = rollout(run.backbone, run.vocabulary, run.task,
                                      [(entry.problem, budget(entry.reference)) for entry in entries])
        yield from (entry.line(row) for entry, row in zip(entries, rows, strict=True))


if __name__ == "__main__":
    main()
