"""Run folders: one a run, claimed and found again, whatever the loggers are."""

import contextlib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from length_gen.lightning_modules.provenance import CHECKPOINT, PREVIOUS
from length_gen.lightning_modules.runs.checkpoints import read_checkpoint
from length_gen.tools import UserError
from length_gen.tools.system import lock

RUNS = Path("runs")
SWEEPS = RUNS / "sweeps"
ELSEWHERE = "elsewhere.txt"
"""In `runs`: the folders of runs that are not in it, a line each."""

MATTERS = ("seed_everything", "data", "model", "trainer.max_steps", "trainer.precision", "trainer.gradient_clip_val",
           "trainer.gradient_clip_algorithm", "trainer.accumulate_grad_batches")
FREE = ("data.num_workers", "data.evaluation_seed", "data.validation_rows")
"""Keys of a configuration that weights depend on, with all beneath them; and those beneath that change none."""


def differences(known: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What would make a run that goes on with the configuration `given` another run than the one of `known`.

    What its weights depend on must be the same: the seed, data and model, precision, clipping, accumulation, and
    `max_steps` unless the learning rate is constant, for the cosine ends there. All else may change: what is evaluated
    and when, what is saved and logged, workers, devices, the strategy.
    """
    parts = [dict(_leaves(config)) for config in (known, given)]
    constant = parts[1].get("model.schedule") == "constant"
    return [f"{name} {parts[1].get(name)!r} (in the run {parts[0].get(name)!r})" for name in parts[0] | parts[1]
            if any(f"{name}.".startswith(f"{start}.") for start in MATTERS)
            and not any(f"{name}.".startswith(f"{start}.") for start in FREE)
            and not (constant and name == "trainer.max_steps") and parts[0].get(name) != parts[1].get(name)]


def _leaves(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(config, Mapping):
        yield name, config
        return
    for key, value in config.items():
        yield from _leaves(value, f"{name}.{key}" if name else key)


class RunFolder:
    """The folder of one training run, `<root>/<experiment>/<version>`, with config.yaml, checkpoints/ and all results.

    It does not depend on the loggers, which are pointed to it. Their settings may name its parts: the first `save_dir`,
    `name` and `version` in the list that is not that logger's own default is the root, the experiment and the version.

    root:       `runs` where nothing names it
    experiment: may have slashes in it
    version:    None: the next free `version_<n>`
    """

    def __init__(self, root: str | Path, experiment: str, version: str | int | None = None) -> None:
        self.root, self.experiment = Path(root).expanduser(), experiment
        self.version = f"version_{version}" if isinstance(version, int) else version
        self._lock: IO[bytes] | None = None  # locked until this process ends

    @classmethod
    def named(cls, trainer: Namespace, task: str) -> "RunFolder":
        """The folder that the trainer's configuration names; the experiment is the task's name where none is given."""
        def named(part: str) -> Any:
            for logger in logger_configs(trainer.logger):
                value, known = logger.init_args.get(part), inspect.signature(logger_class(logger)).parameters
                if value is not None and (part not in known or value != known[part].default):
                    return value
            return None

        experiment = named("name")
        return cls(named("save_dir") or trainer.default_root_dir or RUNS, task if experiment is None else experiment,
                   named("version"))

    @property
    def path(self) -> Path:
        """`<root>/<experiment>/<version>`, of a version that is named or claimed."""
        return Path(self.root, self.experiment, self.version)

    def newest(self) -> str:
        """Version of the experiment's newest run, or the one that is named. Raises UserError if there is none."""
        experiment = Path(self.root, self.experiment)
        if self.version is None:
            return newest_of(experiment.glob("*"), experiment).name
        newest_of([self.path], self.path)
        return self.version

    def claim(self, resumed: bool = False) -> None:
        """Make the folder, and make it this process's own until that ends.

        resumed: a run goes on in it. Raises UserError if the folder holds another run, or one that is running.
        """
        while self.version is None:
            taken = [int(path.name[8:]) for path in Path(self.root, self.experiment).glob("version_*")
                     if path.name[8:].isdecimal()]
            version = f"version_{max(taken, default=-1) + 1}"
            try:
                Path(self.root, self.experiment, version).mkdir(parents=True)
                self.version = version
            except FileExistsError:  # another process has seen the same next version
                continue
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path / ".lock")  # held until the process ends
        taken = self._lock is None
        if taken or (not resumed and (self.path / "config.yaml").exists()):
            raise UserError(f"{self.path} holds another run, which {'is running' if taken else 'stays as it is'}: give "
                            f"another --trainer.logger.version, or go on with --ckpt_path last{' later' * taken}")
        if resumed and (curve := self.path / "metrics.csv").is_file():  # a CSVLogger begins its file anew
            curve.rename(self.path / f"metrics_before_{len(list(self.path.glob('metrics_before_*')))}.csv")
        if RUNS.resolve() not in self.path.resolve().parents:
            with contextlib.suppress(OSError):  # where that cannot be written, only `last` finds the run again
                RUNS.mkdir(exist_ok=True)
                with open(RUNS / ELSEWHERE, "a", encoding="utf-8") as file:
                    file.write(f"{self.path.resolve()}\n")

    def pointed(self, logger: Namespace) -> Namespace:
        """A logger's configuration with its files in the folder."""
        logger = logger.clone()
        own = {"save_dir": str(self.root), "name": self.experiment, "version": self.version}
        if all(name in logger.init_args for name in own) and logger_class(logger).log_dir is not Logger.log_dir:
            for name, value in own.items():  # its files are in <save_dir>/<name>/<version>
                logger.init_args[name] = value
        elif "save_dir" in logger.init_args:
            logger.init_args["save_dir"] = str(self.path)
        return logger


def logger_configs(loggers: Any) -> list[Namespace]:
    """Configurations of loggers: one, several, `false` (none), or `true` and null (Lightning's TensorBoardLogger)."""
    if loggers is False:
        return []
    if loggers is None or loggers is True:
        return [Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger",
                          init_args=Namespace(save_dir=None, name=None, version=None))]
    return list(loggers) if isinstance(loggers, list | tuple) else [loggers]


def logger_class(logger: Namespace) -> type[Logger]:
    """The class that a logger's configuration names, imported."""
    module, _, name = logger.class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def newest_run() -> Path:
    """Folder of the run whose checkpoint is the newest, but for sweeps'; raises UserError if there is none.

    Runs that are not in `runs` have a line in `runs/elsewhere.txt`.
    """
    elsewhere = RUNS / ELSEWHERE
    others = map(Path, elsewhere.read_text(encoding="utf-8").splitlines()) if elsewhere.is_file() else ()
    found = (path.parent for path in RUNS.rglob(str(CHECKPOINT.parent)) if SWEEPS not in path.parents)
    return newest_of([*found, *others], RUNS)


def newest_of(runs: Iterable[Path], place: str | Path) -> Path:
    """The run whose checkpoint is the newest; raises UserError, which names the place, if none has one."""
    times = {run: [path.stat().st_mtime for name in (PREVIOUS, CHECKPOINT) if (path := run / name).is_file()]
             for run in runs}
    if not any(times.values()):
        raise UserError(f"there is no run with a checkpoint in {place}/: make one with "
                        f"python run.py fit --config configs/mult.yaml")
    return max((run for run in times if times[run]), key=lambda run: max(times[run]))


def newest_checkpoint(run: Path) -> Path:
    """The newest whole checkpoint of a run; says so if that is not the last one. Raises UserError if none is whole."""
    return read_checkpoint(run / CHECKPOINT)[0]
