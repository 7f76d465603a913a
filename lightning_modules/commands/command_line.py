"""LightningCLI for this suite: model, data and trainer from a configuration, and the run folder of a training."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import lightning
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.lightning_modules.commands.arguments import Arguments
from length_gen.lightning_modules.commands.parser import ConfigFile, Parser, yaml_file
from length_gen.lightning_modules.errors import is_out_of_memory
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.provenance import CHECKPOINT
from length_gen.lightning_modules.runs.checkpoints import ReadOnce, check_content, read_checkpoint
from length_gen.lightning_modules.runs.folders import MATTERS, RunFolder, differences, logger_configs
from length_gen.lightning_modules.runs.load import Run
from length_gen.lightning_modules.runs.trust import import_only
from length_gen.lightning_modules.training.callbacks import (
    DataWait,
    LastCheckpoint,
    LengthGeneralization,
    Peers,
    RunProgress,
)
from length_gen.lightning_modules.training.callbacks.last_checkpoint import run_folder
from length_gen.tools import UserError

TRUST = ("A configuration is a program. One that you name may import anything, one of a run folder only this suite, "
         "Lightning, and what you name with --trusted_packages, with commas between; with that option, so may those "
         "that you name.")


PATIENCE = timedelta(hours=6)
"""How long a rank waits for another, where PyTorch would end it after half an hour: one problem of many million tokens,
which nobody can share, may take longer. Of ranks that died `Peers` tells."""


class Trainer(lightning.Trainer):
    """Lightning's Trainer, whose files go to the run's folder.

    folder: of the training run, which rank 0 knows, and the others once they have asked for `log_dir`, as all must
    """

    folder: str | None = None
    _agreed = False

    @property
    def log_dir(self) -> str | None:
        """The run's folder, whatever its loggers are; that of the checkpoint where one is evaluated."""
        if self.state.fn == "fit" and not self._agreed:
            self.folder, self._agreed = self.strategy.broadcast(self.folder), True
        if self.state.fn != "fit" and self.ckpt_path:
            return str(Path(self.ckpt_path).resolve().parent.parent)
        return self.folder or super().log_dir


class SaveConfig(SaveConfigCallback):
    """Keeps the configuration of a training run beside it; an evaluation leaves it as it is."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        folder = run_folder(trainer)  # on every rank: the ranks agree on it
        if trainer.folder and trainer.is_global_zero:
            self.parser.save(self.config, folder / "config.yaml", skip_none=False, overwrite=True,
                             multifile=self.multifile)
            trainer.datamodule.task.save(folder)


class CLI(LightningCLI):
    """A command and its settings: builds model, data and trainer, of which `call` makes it.

    The model gets its vocabulary from the data; `evaluation` configures the rollouts.

    command:   `fit`, `validate` or `test`, or the function's name
    function:  a command whose first argument is the run; its others are options beside the configuration's
    weights:   whether it needs a trained model's
    """

    def __init__(self, command: str, arguments: Arguments, function: Callable[..., None] | None = None,
                 weights: bool = True) -> None:
        self.command, self.arguments, self._function, self._weights = command, arguments, function, weights
        super().__init__(
            TrajectoryModel, TrajectoryDataModule, SaveConfig, trainer_class=Trainer, seed_everything_default=42,
            trainer_defaults={"use_distributed_sampler": False, "num_sanity_val_steps": 0,
                              "enable_model_summary": False}, run=False,
            parser_class=Parser, parser_kwargs={"epilog": TRUST, "prog": f"{Path(sys.argv[0]).name} {command}",
                                                "dump_header": [f"lightning=={lightning.__version__}"]})

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path to a configuration file in YAML.")
        return parser

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except Exception as error:  # Lightning's checks of its arguments raise anything
            if isinstance(error, UserError):
                raise
            what = "" if isinstance(error, ValueError | MisconfigurationException) else f"{type(error).__name__}: "
            raise UserError(f"the trainer cannot be built: {what}{' '.join(str(error).split())}") from error
        # Here, so that --trainer.enable_progress_bar false still means none.
        trainer.callbacks[:] = [RunProgress() if isinstance(c, ProgressBar) else c for c in trainer.callbacks]
        trainer.callbacks[:0] = [Peers(), DataWait()]
        if getattr(trainer.strategy, "_timeout", None) == default_pg_timeout:
            trainer.strategy._timeout = PATIENCE
        return trainer

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(LengthGeneralization, "evaluation")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("data.vocabulary", "model.vocabulary", apply_on="instantiate")
        parser.link_arguments("data.task_name", "model.task_name", apply_on="instantiate")
        if self._function is None:
            skip = self.subcommands()[self.command]
            self._options = parser.add_method_arguments(lightning.Trainer, self.command, skip=skip)
            return
        self._options = parser.add_function_arguments(self._function, as_group=False, skip={"run"})
        parser.add_argument("--ckpt_path", type=str | None, help="Checkpoint of the model; without it and without a "
                                                                 "config the newest run's.")
        parser.add_argument("--weights_only", type=bool | None, help="Has no effect here (it stands in the "
                                                                     "configuration of every training run).")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        given = self.arguments
        if guarded := given.config is not None or given.packages is not None:
            import_only(given.packages or ())
        found = [] if given.config is None else ["--config", str(given.config)]
        self.config = config = parser.parse_args([*found, *given.rest])
        if given.checkpoint is not None:
            config.ckpt_path = str(given.checkpoint)
        if self.command != "fit":
            config.trainer.logger = False  # results go to the run's folder, not to a new one
        said = any(re.match(r"--[\w.]+\.unsandboxed(=|$)", argument) for argument in given.rest)
        if guarded and not said and any(name.endswith(".unsandboxed") and v for name, v in config.items()):
            raise UserError("the run's configuration would let what a model writes run outside the sandbox: say "
                            "yourself whether it may, with --data.task.unsandboxed true or false")
        seed = config.seed_everything
        if not 0 <= seed < 2**32:
            raise UserError(f"seed_everything {seed} is not possible: expected a whole number from 0 to 4,294,967,295")

    def before_instantiate_classes(self) -> None:
        for key, cls in {"data": TrajectoryDataModule, "model": TrajectoryModel, "trainer": lightning.Trainer,
                         "evaluation": LengthGeneralization, "checkpoint": LastCheckpoint}.items():
            _check_nulls(key, cls, self.config.get(key))

    def instantiate_classes(self) -> None:
        """Raises UserError for a class of the configuration, such as a logger, that refuses to be made."""
        try:
            super().instantiate_classes()
        except ValueError as error:  # the parser's, which names all types that a setting could have
            refused = re.search(r"Subtypes: .*?\nErrors:\n  - (.*?)\n.*class_path='([\w.]+)'", str(error), re.DOTALL)
            if not refused:
                raise
            raise UserError(f"{refused[2]} cannot be made: {refused[1]}") from error
        for callback in self.trainer.callbacks:
            if isinstance(callback, LengthGeneralization):
                callback.check_task(self.datamodule.task)  # before the training, not after it

    def call(self) -> None:
        """Run the command. Raises UserError where the memory is too small for it."""
        if self._function and self._weights and self.config.ckpt_path is None:
            raise UserError(f"{self.command} needs a trained model: give --ckpt_path, or no --config to take the "
                            f"newest run")
        options = {name: self.config_init[name] for name in self._options}
        try:
            if self._function:
                self._function(self._run_of(), **options)
                return
            self._before_fit() if self.command == "fit" else self._read()
            options["ckpt_path"] = self.config_init.ckpt_path
            getattr(self.trainer, self.command)(self.model, datamodule=self.datamodule, **options)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(self._too_large()) from error

    def _run_of(self) -> Run:
        """The run that a function is called with, its weights loaded where it needs them."""
        decoding, = (c.decoding for c in self.trainer.callbacks if isinstance(c, LengthGeneralization))
        checkpoint = self.config_init.ckpt_path
        folder = Path(checkpoint).resolve().parent.parent if checkpoint else Path(self.trainer.log_dir or ".")
        run = Run(folder, self.model.backbone, self.datamodule, decoding)
        if self._weights:
            self._read()
            content = self.trainer.strategy.checkpoint_io.load_checkpoint(self.config_init.ckpt_path)
            self.model.on_load_checkpoint(content)
            self.model.load_state_dict(content["state_dict"])
            self.model.to(self.trainer.strategy.root_device).eval()
        return run

    def _before_fit(self) -> None:
        """Find the run that goes on, or claim the folder of a new one; point the loggers to it."""
        config, trainer = self.config, self.trainer
        if trainer.fast_dev_run:
            return
        run = RunFolder.named(config.trainer, self.datamodule.task_name)
        if config.ckpt_path == "last":
            run.version = run.newest()
            self.config_init.ckpt_path = str(run.path / CHECKPOINT)
        if rank_zero_only.rank != 0:
            self._read()
            return
        checkpoint = self.config_init.ckpt_path
        resumed = checkpoint is not None and run.version is not None \
            and Path(checkpoint).resolve().parent.parent == run.path.resolve()
        if resumed:
            self._compare(run.path / "config.yaml")
            config.ckpt_path = None  # what is saved begins the same run again
        self._read()
        run.claim(resumed)
        self._run, trainer.folder = run, str(run.path)  # the run is locked as long as it is kept
        if loggers := [run.pointed(logger) for logger in logger_configs(config.trainer.logger)]:
            parser = ArgumentParser()
            parser.add_argument("--loggers", type=list[Logger])
            instantiate = getattr(parser, "instantiate", parser.instantiate_classes)
            trainer.loggers = instantiate(Namespace(loggers=loggers)).loggers

    def _compare(self, path: Path) -> None:
        """Raises UserError if a run that goes on would not be the run of the configuration beside it."""
        parser = self.parser
        if not path.is_file():
            return
        import_only(_packages(self.config))
        content = yaml_file(path)
        if isinstance(content, dict) and isinstance(trainer := content.get("trainer"), dict):  # not its callbacks, say
            content["trainer"] = {key: value for key, value in trainer.items() if f"trainer.{key}" in MATTERS}
        known, given = (yaml.safe_load(parser.dump(config, skip_none=False))
                        for config in (parser.parse_string(yaml.safe_dump(content)), self.config))
        if found := differences(known, given):
            raise UserError(f"the run in {path.parent} has another configuration: {'; '.join(found)}. Give it as it "
                            f"was (--config {path}), or begin another run: without --ckpt_path, or with the path of "
                            f"this run's checkpoint and another --trainer.logger.version")

    def _read(self) -> None:
        """Read the checkpoint, once, for whoever asks the trainer's strategy for it."""
        config, strategy, content = self.config_init, self.trainer.strategy, None
        if config.ckpt_path:
            if rank_zero_only.rank == 0:
                path, content = read_checkpoint(config.ckpt_path)
                check_content(path, content)
                config.ckpt_path = str(path)
            strategy.checkpoint_io = ReadOnce(strategy, content)

    def _too_large(self) -> str:
        """What did not fit in the device's memory, and what to do."""
        if self._function:
            return (f"the {self.command} does not fit in the device's memory: give --evaluation.decoding.weights "
                    f"bfloat16, or --trainer.accelerator cpu")
        trainer, data, evaluation = self.trainer, self.datamodule, self.config.evaluation
        batch = trainer.fit_loop.epoch_loop.batch_progress.current
        if self.command == "fit" and (batch.ready > batch.completed or not trainer.global_step):
            rows = data.batch_size // trainer.world_size
            tokens = f" x {data.row_length} tokens" if data.packed else ", each as long as the longest trajectory,"
            shorter = " or --data.row_length" if data.packed else ""
            return (f"a training step of {rows} rows{tokens} a device does not fit in its memory: give a smaller "
                    f"--data.batch_size{shorter}, with --trainer.accumulate_grad_batches for as many rows a step of "
                    f"the optimizer, or share the model out over several GPUs with --config configs/trainer/fsdp.yaml")
        alone = " (or --evaluation.verify_problems, which are side by side too)" if evaluation.verify_lengths else ""
        return (f"an evaluation of {evaluation.batch_size} rows side by side does not fit in the device's memory: give "
                f"a smaller --evaluation.batch_size{alone}")


def _check_nulls(key: str, cls: type, settings: Any) -> None:
    """Raises UserError if a setting of a class, or of one inside it, is null and must not be: the parser takes it."""
    if not isinstance(settings, Namespace):
        raise UserError(f"{key} {settings!r} is not possible: expected a mapping with its settings")
    try:
        hints = get_type_hints(cls.__init__)
    except NameError:  # of names that are imported for type checkers alone
        return
    for name, value in vars(settings).items():
        if value is None and (hint := hints.get(name, Any)) is not Any and type(None) not in get_args(hint) \
                and inspect.signature(cls).parameters[name].default is not None:
            raise UserError(f"{key}.{name} null is not possible: expected {getattr(hint, '__name__', hint)}; leave the "
                            f"key out for its default")
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Namespace) and "class_path" in part:
                module, _, inner = part.class_path.rpartition(".")
                _check_nulls(f"{key}.{name}", getattr(importlib.import_module(module), inner),
                             part.get("init_args", Namespace()))


def _packages(config: Any) -> set[str]:
    """Packages of all classes in a configuration."""
    if isinstance(config, list | tuple):
        return set().union(*map(_packages, config))
    if not isinstance(config, dict | Namespace):
        return set()
    parts = config if isinstance(config, dict) else vars(config)
    name = parts.get("class_path")
    return set().union({name.partition(".")[0]} if isinstance(name, str) else (), *map(_packages, parts.values()))
