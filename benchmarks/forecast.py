"""How far models will reach, forecast before any training; and what the forecasts were worth.

    python benchmarks/forecast.py                    # before: writes results/theory/forecast.json
    python run.py sweep configs/sweeps/forecast.yaml --parallel 15
    python benchmarks/forecast.py --score            # after: writes forecast_score.json, forecast_outcomes.json there

Of each machine of the sweep, trained on inputs of up to 6 symbols: the probability that a seed is exact, all problems
of both variants, at 60 and 600. By several forecasters:

    horizon:  `analyze`'s, of trajectories up to 60; 25 tokens or fewer: 0.9, more: 0.1, about the shares of earlier
              curves with such horizons that reached the largest length tried
    coverage: whether training shows all that problems of 60 ask (datamodules/coverage.py); 0.9 or 0.1
    tokens:   whether a trajectory at 60 has fewer tokens than the median machine's; 0.9 or 0.1
    reader:   one who has read the tables and some trajectories, in forecast_reader.yaml
    yes:      always

The score is Brier's: the mean over machines and seeds of (probability - outcome)^2, the lower the better, with
intervals over machines (95%, bootstrap).
"""

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from length_gen.datamodules.coverage import unseen
from length_gen.datamodules.tasks import Turing
from length_gen.lightning_modules.evaluation.analysis import by_variant, horizons
from length_gen.lightning_modules.reporting.measurements import Records, arguments

SWEEP, READER = Path("configs/sweeps/forecast.yaml"), Path(__file__).with_name("forecast_reader.yaml")
TRAINED, REACHED = 6, (60, 600)
LIKELY, UNLIKELY, NEAR = 0.9, 0.1, 25
TOKENS, PROBLEMS = 300_000, 8
FORECASTERS = ("horizon", "coverage", "tokens", "reader", "yes")


def machines() -> dict[str, Turing]:
    """The sweep's machines by name."""
    grid = yaml.safe_load(SWEEP.read_text())["blocks"][0]["grid"]["machine"]
    found = {}
    for name, options in grid.items():
        given = dict(re.findall(r"--data\.task\.(\w+) (\S+)", options))
        every = given.get("state_every", "1")
        found[name] = Turing(given["machine"], TRAINED, state_every=int(every) if every.isdigit() else every)
    return found


def facts(task: Turing, problems: int) -> dict:
    """What can be known of a machine without training."""
    rows = list(horizons(task, [TRAINED, REACHED[0]], problems, 0))
    reached = by_variant(rows)
    rng, training = random.Random(0), []
    while sum(len(one.tokens) for one in training) < TOKENS:
        training.append(task.record(task.sample_training(rng)))
    tests = [task.record(task.problem("validation", 0, REACHED[0], i, variant)) for variant in task.variants
             for i in range(PROBLEMS)]
    found = unseen(training, tests, task.vocabulary())
    phases = Counter(test.phase_at(place) for test, places in zip(tests, found, strict=True) for place in places)
    return {"horizon at 6": max(line[TRAINED] for line in reached.values()),
            "horizon at 60": max(line[REACHED[0]] for line in reached.values()),
            "tokens at 60": max(row["tokens"] for row in rows),
            "unseen a problem": sum(map(len, found)) / len(tests),
            "phases": ", ".join(f"{phase} ({count})" for phase, count in phases.most_common(3))}


def forecast(options) -> None:
    """Write what each forecaster says of each machine."""
    records, reader = Records(options.out, settings=vars(options)), yaml.safe_load(READER.read_text())
    known = {name: facts(task, options.problems) for name, task in machines().items()}
    median = float(np.median([fact["tokens at 60"] for fact in known.values()]))
    for name, fact in known.items():
        records.add({"machine": name, **fact,
                     "horizon": LIKELY if fact["horizon at 60"] <= NEAR else UNLIKELY,
                     "coverage": UNLIKELY if fact["unseen a problem"] else LIKELY,
                     "tokens": LIKELY if fact["tokens at 60"] < median else UNLIKELY,
                     **{f"reader at {length}": said for length, said in zip(REACHED, reader[name], strict=True)}})
    records.show()


def outcomes(name: str) -> dict[int, list[bool]]:
    """Length -> whether each seed that was trained is exact there, in every variant.

    A variant has no record of lengths beyond one at which nothing was right.
    """
    found: dict[int, list[bool]] = {length: [] for length in REACHED}
    for path in sorted(Path("results/forecast_6").glob(f"{name}_2x64_seed*.json")):
        shares = {(record["variant"], record["length"]): record["exact_match"]
                  for record in json.loads(path.read_text())["records"]}
        variants = {variant for variant, _ in shares}
        for length in REACHED:
            found[length].append(all(shares.get((variant, length)) == 1 for variant in variants))
    return found


def score(options) -> None:
    """Write each forecaster's score at each length, and how often what it called likely came; and what came."""
    told = json.loads(Path("results/theory/forecast.json").read_text())["records"]
    records = Records(options.out, settings=vars(options))
    seen = {row["machine"]: outcomes(row["machine"]) for row in told}
    came = Records(options.out and Path(options.out).with_name("forecast_outcomes.json"))
    for row in told:
        came.add({"machine": row["machine"], "horizon at 60": row.get("horizon at 60"),
                  "unseen a problem": row.get("unseen a problem"), "reader at 60": row["reader at 60"],
                  **{f"exact at {length}": f"{sum(seeds)} of {len(seeds)}"
                     for length, seeds in seen[row["machine"]].items()}})
    for length in REACHED:
        for forecaster in FORECASTERS:
            said = {row["machine"]: row.get(forecaster, row.get(f"{forecaster} at {length}", 1.0)) for row in told}
            errors = {name: [(said[name] - came) ** 2 for came in seen[name][length]] for name in said}
            errors = {name: each for name, each in errors.items() if each}
            likely = [came for name in errors if said[name] >= 0.5 for came in seen[name][length]]
            unlikely = [came for name in errors if said[name] < 0.5 for came in seen[name][length]]
            low, high = interval(list(errors.values()))
            records.add({"length": length, "forecaster": forecaster, "machines": len(errors),
                         "Brier": float(np.mean(np.concatenate(list(errors.values())))), "from": low, "to": high,
                         "came of likely": f"{sum(likely)} of {len(likely)}",
                         "came of unlikely": f"{sum(unlikely)} of {len(unlikely)}"})
    records.show()


def interval(errors: list[list[float]], draws: int = 2000) -> tuple[float, float]:
    """95% of the mean over all, machines drawn with repetition."""
    rng = np.random.default_rng(0)
    means = [np.concatenate([errors[i] for i in rng.integers(len(errors), size=len(errors))]).mean()
             for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Forecast, or score the forecasts."""
    options = arguments(__doc__, lambda given: f"results/theory/forecast{'_score' * given.score}",
                        problems=(8, "of each length and variant, for the horizon"),
                        score=(False, "hold the forecasts against what came"))
    score(options) if options.score else forecast(options)


if __name__ == "__main__":
    main()
