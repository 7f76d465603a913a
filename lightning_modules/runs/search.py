"""A search for settings, a kind of sweep: Optuna draws the trials, and the loss on held-out validation rows decides."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from length_gen.datamodules.typed import typed
from length_gen.lightning_modules.runs.folders import SWEEPS
from length_gen.lightning_modules.runs.sweep_file import Cell, configs_first
from length_gen.tools import UserError


@dataclass(frozen=True)
class Search:
    """What a search's file says, see `search`; types alone."""

    results: str
    search: dict[str, dict[str, Any]]
    options: str = ""
    trials: int = 20
    batch: int = 4
    seed: int = 1
    minutes: float = 0.0


def search(path: Path, content: Any, more: Sequence[str], run: Callable[[list[Cell]], dict[str, list[str]]],
           console: Console) -> None:
    """Run the trials of a search that have no result yet, and say which was the best.

    The keys of its file: `results` (folder of its files), `options` (of every trial), `search` (option, without dashes
    -> what Optuna draws it from, by Optuna's names: low, high, log and step, or choices), `trials`, `batch` (trials
    that are drawn at once), `seed` (of Optuna's and of every training), and `minutes` (as of a sweep).

    Trial i is a function of the seed and of the losses of the batches before, so that the same command goes on from the
    files alone. What counts is `validation_loss`; test problems are never drawn (--evaluation.split validation). A
    trial without a loss has failed, for Optuna too.

    more: further options of every trial; run: runs cells, and tells how they ended (`Pool.run`)

    Raises UserError for a file that is no search, and for results of other trials.
    """
    try:
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    except ImportError:
        raise UserError("a search needs Optuna: pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = typed(Search, content, lambda what: UserError(f"{path} is not a search: {what}"))
    if given.trials < 1 or given.batch < 1:
        raise UserError(f"{path}: {given.trials} trials in batches of {given.batch} are not possible")
    drawn = {}
    for option, keys in given.search.items():
        whole = isinstance(keys.get("low"), int) and isinstance(keys.get("high"), int)
        kind = CategoricalDistribution if "choices" in keys else IntDistribution if whole else FloatDistribution
        try:
            drawn[option] = kind(**keys)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: search {option}: {error}") from None
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=given.seed))
    for start in range(0, given.trials, given.batch):
        trials = [study.ask(drawn) for _ in range(min(given.batch, given.trials - start))]
        chosen = [tuple(part for name, value in trial.params.items() for part in (f"--{name}", str(value)))
                  for trial in trials]
        cells = [Cell(f"trial{trial.number}",
                      (*configs_first([*shlex.split(given.options), *options, *more]), "--evaluation.split",
                       "validation", "--seed_everything", str(given.seed)),
                      Path(given.results, f"trial{trial.number}.json"), SWEEPS / path.stem / Path(given.results).name,
                      given.minutes) for trial, options in zip(trials, chosen, strict=True)]
        ended = run([cell for cell in cells if not cell.result.is_file()])
        if any(not cell.result.is_file() and cell.name not in ended["failed"] for cell in cells):
            console.print(f"{start} of {given.trials} trials done: the same command goes on")
            return
        for trial, cell, options in zip(trials, cells, chosen, strict=True):
            result = json.loads(cell.result.read_text(encoding="utf-8")) if cell.result.is_file() else {}
            if result and shlex.join(options) not in result["command"]:
                raise UserError(f"{cell.result} is of another trial than {shlex.join(options)}: give another folder as "
                                f"results of {path}")
            loss = result.get("validation_loss")
            study.tell(trial, loss, state=None if loss is not None else optuna.trial.TrialState.FAIL)
            console.print(f"trial {trial.number}: {shlex.join(options)}, validation loss {loss}")
    whole = [trial for trial in study.trials if trial.value is not None]
    if not whole:
        raise UserError(f"no trial of {path} has a validation loss: see the logs in {SWEEPS / path.stem}, and "
                        f"--trainer.val_check_interval")
    console.print(f"the best of {len(whole)}: trial {study.best_trial.number}, validation loss {study.best_value:.4g}")
