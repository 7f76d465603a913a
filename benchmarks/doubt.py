"""Whether models could tell that they err: least margins up to the first error, and what a threshold on them catches.

    python run.py fit --config configs/add.yaml --data.task.style paper --evaluation.evaluators [verify]
    python benchmarks/doubt.py --runs runs/add/version_0

Of each run, variant and length: the problems that it gets wrong; how often a wrong one's least margin is below a right
one's (area under the ROC curve), with the wrong choice and without; and how many wrong ones, and right ones, a rollout
would stop that stops where its margin is below all of those on validation problems of the lengths of training.
Writes results/benchmarks/doubt.json.
"""

from length_gen.lightning_modules.evaluation.doubt import area, doubts, stopped
from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.reporting.measurements import Records, arguments
from length_gen.lightning_modules.runs.load import Run, load_run
from length_gen.tools.files import read_yaml


def main() -> None:
    """Measure each run."""
    options = arguments(__doc__, "doubt", runs=[str], lengths=[10, 15, 20, 30, 50, 100, 200],
                        problems=(64, "of each length and variant"))
    records = Records(options.out)
    for folder in options.runs:
        run = load_run(folder)
        seed = read_yaml(run.folder / "config.yaml").get("seed_everything")
        threshold = min(min(one.until for one in known if one.first_error is None)
                        for length in range(1, run.task.max_length + 1) for variant in run.task.variants_at(length)
                        if (known := measured(run, "validation", length, variant, options.problems)))
        for length in options.lengths:
            for variant in run.task.variants_at(length):
                found = measured(run, "test", length, variant, options.problems)
                wrong, right = ([one for one in found if (one.first_error is not None) == errs]
                                for errs in (True, False))
                caught, false = (stopped([one.until for one in rows], threshold) for rows in (wrong, right))
                low, high = wilson_interval(caught, len(wrong))
                records.add({"task": run.task.name, "style": run.task.style, "backbone": run.backbone.description,
                             "seed": seed, "variant": variant, "length": length, "problems": len(found),
                             "wrong": len(wrong),
                             "area": area([one.until for one in wrong], [one.until for one in right]),
                             "area before": area([one.before for one in wrong], [one.before for one in right]),
                             "threshold": threshold, "caught": caught, "caught low": low, "caught high": high,
                             "false stops": false})
    records.show()


def measured(run: Run, split: str, length: int, variant: str, problems: int) -> list:
    """The doubts of so many problems."""
    asked = [run.task.problem(split, run.data.evaluation_seed, length, index, variant) for index in range(problems)]
    return doubts(run.backbone, run.vocabulary, run.task.references(asked))


if __name__ == "__main__":
    main()
