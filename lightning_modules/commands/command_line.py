"""LightningCLI for this suite: model, data and trainer from a configuration, and the run folder of a training."""

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import lightning
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.lightning_modules.commands.arguments import yaml_file
from length_gen.lightning_modules.commands.parser import Parser
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.provenance import CHECKPOINT
from length_gen.lightning_modules.runs.checkpoints import ReadOnce, check_content, read_checkpoint
from length_gen.lightning_modules.runs.folders import MATTERS, RunFolder, differences, logger_configs
from length_gen.lightning_modules.runs.load import Run
from length_gen.lightning_modules.runs.trust import import_only
from length_gen.lightning_modules.training.callbacks import DataWait, LastCheckpoint, LengthGeneralization, RunProgress
from length_gen.lightning_modules.training.callbacks.last_checkpoint import run_folder
from length_gen.tools import UserError
from length_gen.tools.errors import is_out_of_memory


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
    """LightningCLI whose model gets its vocabulary from the data; `evaluation` configures the rollouts.

    guarded: the configuration is not one that the user named
    """

    def __init__(self, *args: Any, guarded: bool = False, **kwargs: Any) -> None:
        self._guarded = guarded
        super().__init__(*args, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        commands = LightningCLI.subcommands()
        del commands["predict"]
        return commands

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would read the checkpoint for hyperparameters, and the suite's have none."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        kwargs.setdefault("dump_header", [f"lightning=={lightning.__version__}"])
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="Path to a configuration file in YAML.")
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
        trainer.callbacks.insert(0, DataWait())
        return trainer

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(LengthGeneralization, "evaluation")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("seed_everything", "data.seed")
        parser.link_arguments("data.vocabulary", "model.vocabulary", apply_on="instantiate")
        parser.link_arguments("data.task_name", "model.task_name", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        config = self._settings(self.config)
        said = any(re.match(r"--[\w.]+\.unsandboxed(=|$)", argument) for argument in sys.argv)
        if self._guarded and not said and any(name.endswith(".unsandboxed") and v for name, v in config.items()):
            raise UserError("the run's configuration would let what a model writes run outside the sandbox: say "
                            "yourself whether it may, with --data.task.unsandboxed true or false")
        seed = config.seed_everything
        if not 0 <= seed < 2**32:
            raise UserError(f"seed_everything {seed} is not possible: expected a whole number from 0 to 4,294,967,295")

    def before_instantiate_classes(self) -> None:
        config = self._settings(self.config)
        for key, cls in {"data": TrajectoryDataModule, "model": TrajectoryModel, "trainer": lightning.Trainer,
                         "evaluation": LengthGeneralization, "checkpoint": LastCheckpoint}.items():
            _check_nulls(key, cls, config.get(key))

    def before_fit(self) -> None:
        """Find the run that goes on, or claim the folder of a new one; point the loggers to it."""
        config, trainer = self.config.fit, self.trainer
        if trainer.fast_dev_run:
            return
        run = RunFolder.named(config.trainer, self.datamodule.task_name)
        if config.ckpt_path == "last":
            run.version = run.newest()
            self.config_init.fit.ckpt_path = str(run.path / CHECKPOINT)
        if rank_zero_only.rank != 0:
            self._read()
            return
        checkpoint = self.config_init.fit.ckpt_path
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
        parser = self._parser("fit")
        if not path.is_file():
            return
        import_only(_packages(self.config.fit))
        content = yaml_file(str(path))
        if isinstance(content, dict) and isinstance(trainer := content.get("trainer"), dict):  # not its callbacks, say
            content["trainer"] = {key: value for key, value in trainer.items() if f"trainer.{key}" in MATTERS}
        known, given = (yaml.safe_load(parser.dump(config, skip_none=False))
                        for config in (parser.parse_string(yaml.safe_dump(content)), self.config.fit))
        if found := differences(known, given):
            raise UserError(f"the run in {path.parent} has another configuration: {'; '.join(found)}. Give it as it "
                            f"was (--config {path}), or begin another run: without --ckpt_path, or with the path of "
                            f"this run's checkpoint and another --trainer.logger.version")

    def _read(self) -> None:
        """Read the checkpoint, once, for whoever asks the trainer's strategy for it."""
        config, strategy, content = self._settings(self.config_init), self.trainer.strategy, None
        if config.ckpt_path:
            if rank_zero_only.rank == 0:
                path, content = read_checkpoint(config.ckpt_path)
                check_content(path, content)
                config.ckpt_path = str(path)
            strategy.checkpoint_io = ReadOnce(strategy, content)

    before_validate = before_test = _read

    def _settings(self, config: Namespace) -> Namespace:
        """The settings of the command that is given; of all, where only one can be."""
        command = self.config.get("subcommand")
        return config[command] if command else config

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and not is_out_of_memory(error):
                raise
            raise UserError(self._too_large(subcommand)) from error

    def _too_large(self, subcommand: str) -> str:
        """What did not fit in the device's memory, and what to do."""
        trainer, data = self.trainer, self.datamodule
        batch = trainer.fit_loop.epoch_loop.batch_progress.current
        if subcommand == "fit" and (batch.ready > batch.completed or not trainer.global_step):
            rows = data.batch_size // trainer.world_size
            tokens = f" x {data.row_length} tokens" if data.packed else ", each as long as the longest trajectory,"
            shorter = " or --data.row_length" if data.packed else ""
            return (f"a training step of {rows} rows{tokens} a device does not fit in its memory: give a smaller "
                    f"--data.batch_size{shorter}, with --trainer.accumulate_grad_batches for as many rows a step of "
                    f"the optimizer, or share the model out over several GPUs with --config configs/trainer/fsdp.yaml")
        evaluation = self.config[subcommand].evaluation
        alone = " (or --evaluation.verify_problems, which are side by side too)" if evaluation.verify_lengths else ""
        return (f"an evaluation of {evaluation.batch_size} rows side by side does not fit in the device's memory: give "
                f"a smaller --evaluation.batch_size{alone}")

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        for callback in self.trainer.callbacks:
            if isinstance(callback, LengthGeneralization):
                callback.check_task(self.datamodule.task)  # before the training, not after it


class FunctionCLI(CLI):
    """A command that is a function: its first argument is the run, the others are options beside the configuration's.

    weights: whether it needs a trained model's
    """

    def __init__(self, function: Callable[..., None], weights: bool, **options: Any) -> None:
        self._function, self._weights = function, weights
        super().__init__(run=False, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_function_arguments(self._function, skip={"run"})
        parser.add_argument("--ckpt_path", type=str | None, help="Checkpoint of the model; without it and without a "
                                                                 "config the newest run's.")
        parser.add_argument("--weights_only", type=bool | None, help="Has no effect here (it stands in the "
                                                                     "configuration of every training run).")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, sys.argv[2:])  # after the command's name

    def call(self) -> None:
        """Load the weights and call the function."""
        name, config = self._function.__name__, self.config_init
        if self._weights and config.ckpt_path is None:
            raise UserError(f"{name} needs a trained model: give --ckpt_path, or no --config to take the newest run")
        decoding, = (c.decoding for c in self.trainer.callbacks if isinstance(c, LengthGeneralization))
        run = Run(Path(self.trainer.log_dir or "."), self.model.backbone, self.datamodule, decoding)
        options = {key: config[key] for key in inspect.signature(self._function).parameters if key in config}
        try:
            if self._weights:
                self._read()
                content = self.trainer.strategy.checkpoint_io.load_checkpoint(config.ckpt_path)
                self.model.on_load_checkpoint(content)
                self.model.load_state_dict(content["state_dict"])
                self.model.to(self.trainer.strategy.root_device).eval()
            self._function(run, **options)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and not is_out_of_memory(error):
                raise
            raise UserError(f"the {name} does not fit in the device's memory: give --evaluation.decoding.weights "
                            f"bfloat16, or --trainer.accelerator cpu") from error


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


def command_line(function: Callable[..., None] | None = None, **options: Any) -> CLI:
    """The suite's LightningCLI, which reads sys.argv; `run=False` only builds model, data and trainer.

    function: a command that is none of Lightning's
    """
    about = ("More commands: rollout (one problem, step by step), export (for transformers), analyze (horizons, no "
             "training), sweep (a grid of runs), report (docs/results.md from the files in results/) and collect "
             "(trajectories for code fixing); each has its own --help. A configuration is a program. One that you name "
             "may import anything, one of a run folder only this suite, Lightning, and what you name with "
             "--trusted_packages, with commas between; with that option, so may those that you name.")
    return (CLI if function is None else FunctionCLI)(
        **({} if function is None else {"function": function}), model_class=TrajectoryModel,
        datamodule_class=TrajectoryDataModule, save_config_callback=SaveConfig, trainer_class=Trainer,
        parser_kwargs={"epilog": about} if function is None else {
            "description": inspect.getdoc(function).split("\n\n")[0],
            "prog": f"{Path(sys.argv[0]).name} {function.__name__}"},
        trainer_defaults={"use_distributed_sampler": False, "num_sanity_val_steps": 0}, seed_everything_default=42,
        **options)
