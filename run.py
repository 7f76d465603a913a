"""The command line: fit, validate, test, rollout (one problem, step by step), export (for transformers), analyze
(horizons, no training), sweep (a grid of runs), report (docs/results.md) and collect (trajectories of agents)."""

import importlib
import inspect
import itertools
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, get_args, get_type_hints

import lightning
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, auto_cli
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

import datamodules.tasks
import lightning_modules.backbones
from datamodules.datamodule import TrajectoryDataModule
from datamodules.horizon import verdict
from datamodules.tasks import Task, ToolTask
from lightning_modules.backbones import Backbone
from lightning_modules.backbones.cuda_kernels import ensure_triton_cache
from lightning_modules.backbones.pretrained import export
from lightning_modules.decoding.agreement import check_agreement
from lightning_modules.evaluation.evaluate import check_lengths
from lightning_modules.evaluation.horizons import analysis_table, analyze, clash_text
from lightning_modules.evaluation.metrics import write_metrics
from lightning_modules.evaluation.plots import horizon_figure, save_figure
from lightning_modules.evaluation.solve import solve
from lightning_modules.model import TrajectoryModel
from lightning_modules.provenance import CHECKPOINT, origin, shipped
from lightning_modules.reporting.collect import collect
from lightning_modules.reporting.report import report
from lightning_modules.runs.checkpoints import ReadOnce, existing, read_checkpoint
from lightning_modules.runs.folders import MATTERS, RunFolder, differences, logger_configs, newest_run
from lightning_modules.runs.sweep import sweep
from lightning_modules.runs.trust import import_only
from lightning_modules.training.callbacks import REQUEUE, DataWait, LastCheckpoint, LengthGeneralization, RunProgress
from lightning_modules.training.callbacks.last_checkpoint import run_folder
from tools import UserError
from tools.errors import is_out_of_memory
from tools.files import read_yaml

warnings.filterwarnings("ignore", ".*does not have many workers.*")  # on the CPU none is right
warnings.filterwarnings("ignore", ".*Experiment logs directory.*")  # a run's folder is its own
warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of PyTorch
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in str(record.msg))


class Trainer(lightning.Trainer):
    """Lightning's Trainer, and the commands `rollout`, `export` and `analyze`.

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

    def analyze(self, model: TrajectoryModel, datamodule: TrajectoryDataModule,
                lengths: list[int] = [5, 10, 20, 50, 100, 200], problems: int = 50,  # noqa: B006 (jsonargparse)
                folder: str = "runs/analysis", ckpt_path: str | None = None, weights_only: bool | None = None) -> None:
        """How far back one must look to know every token that a model has to predict, by length; without training.

        Args:
            lengths: of the problems, growing; the horizon is that of all trajectories up to each length together
            problems: validation problems of each length and variant
            folder: where the table and the plot go
            ckpt_path: has no effect here, like `weights_only` (both stand in the configuration of every training run)
            weights_only: see ckpt_path
        """
        task = datamodule.task
        if not lengths or problems < 1:
            raise UserError(f"lengths {list(lengths)} with {problems} problems leave nothing to analyze: expected at "
                            f"least one of each")
        check_lengths(lengths)
        name = f"{task.name}, {task.setting}, {task.style}"
        rows = []
        console = Console(emoji=False)
        for row in analyze(task, lengths, problems, datamodule.evaluation_seed):
            rows.append(row)
            console.print(f"[dim]{row['length']:,}: {row['horizon']:,} tokens[/dim]")
        horizons = [row["horizon"] for row in rows]
        console.print(analysis_table(rows, f"horizon of {name}"))
        result = verdict(lengths, horizons)
        console.print(f"verdict: {result}", f"the worst decision at {lengths[-1]:,}:", clash_text(rows[-1]), sep="\n",
                      markup=False, highlight=False)
        stem = Path(folder) / name.replace(", ", "_")
        write_metrics(stem.with_suffix(".json"), rows, **origin(torch.device("cpu")), task=task.name,
                      setting=task.setting, style=task.style, problems=problems, verdict=result)
        save_figure(horizon_figure(lengths, horizons, task.max_length, f"{name}: {result.split(':')[0]}"),
                    stem.with_suffix(".png"))
        console.print(f"{stem}.json, {stem}.png")

    def rollout(self, model: TrajectoryModel, datamodule: TrajectoryDataModule, prompt: str,
                ckpt_path: str | None = None, limit: int | None = 400, weights_only: bool | None = None) -> None:
        """Solve one problem and print the trace: prompt, thoughts, commands, observations, outputs.

        Args:
            prompt: the problem, such as 123456789x42
            ckpt_path: checkpoint of the model; without it and without a config the newest run's
            limit: show at most so many tokens of the trace
            weights_only: has no effect here (it stands in the configuration of every training run)
        """
        if ckpt_path is None:
            raise UserError("rollout needs a trained model: give --ckpt_path, or no --config to take the newest run")
        datamodule.task.parse(prompt)  # before what takes longer
        self._load(model, ckpt_path)
        decoding, = (c.decoding for c in self.callbacks if isinstance(c, LengthGeneralization))
        check_agreement(model.backbone, datamodule.task, model.vocabulary, decoding)
        solve(model.backbone, model.vocabulary, datamodule.task, [prompt], decoding)[0].show(limit)

    def export(self, model: TrajectoryModel, datamodule: TrajectoryDataModule, out: str,
               ckpt_path: str | None = None, weights_only: bool | None = None) -> None:
        """Write a trained backbone as config.json and model.safetensors, which transformers loads.

        Args:
            out: a new folder; tokens.json in it lists the vocabulary
            ckpt_path: checkpoint of the model; without it and without a config the newest run's
            weights_only: has no effect here (it stands in the configuration of every training run)
        """
        if ckpt_path is None:
            raise UserError("export needs a trained model: give --ckpt_path, or no --config to take the newest run")
        self._load(model, ckpt_path)
        architecture = export(model.backbone, out, model.vocabulary.tokens)
        print(f"{out}: load it with transformers.{architecture}.from_pretrained({out!r})")

    def _load(self, model: TrajectoryModel, path: str) -> None:
        checkpoint = self.strategy.checkpoint_io.load_checkpoint(path)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        model.to(self.strategy.root_device).eval()


class Parser(LightningArgumentParser):
    """Tells a mistake in one line."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse_args(*args, **kwargs)
        except UnicodeDecodeError:
            raise
        except ValueError as error:  # such as a path with a character of code 0
            self.error(str(error), error)

    def error(self, message: str, ex: Exception | None = None) -> None:
        cause = ex
        while cause is not None:
            if isinstance(cause, UserError):
                message = str(cause)
            cause = cause.__cause__ or cause.__context__
        text = _unknown_class(" ".join(str(message).split()))
        print(f"error: {text[:600]}{' ...' if len(text) > 600 else ''}", file=sys.stderr)
        raise SystemExit(2)


def _unknown_class(text: str) -> str:
    """The parser's message; where there is no such class, with those that there are, or where it was looked for."""
    if refused := re.search(r"Importing '([\w.]+)' is not allowed, denied by the", text):
        return (f"{refused[1]} has not been imported: a configuration is a program, and this one, of a run folder, may "
                f"name only what is of this suite and Lightning; if you trust it, give "
                f"--trusted_packages {refused[1].partition('.')[0]}")
    if missing := re.search(r"No module named '[\w.]+'", text):
        given = re.search(r"(?:class_path '|Got value: )([\w.]+)", text)
        own = [os.path.abspath(folder) for folder in sys.path if not folder.startswith((sys.prefix, sys.base_prefix))]
        return (f"{given[1] if given else text} cannot be imported: {missing[0]}; searched: {', '.join(own)} and what "
                f"is installed; run in the folder of your file, or name that in PYTHONPATH")
    if not (found := re.search(r"Expected a dot import path string: ([\w.]+)", text)):
        return text
    key = text.partition('Parser key "')[2].partition('"')[0]
    base = {"data.task": Task, "tasks": ToolTask, "model.backbone": Backbone}.get(key)
    names = [cls.__name__ for module in (datamodules.tasks, lightning_modules.backbones)
             for cls in vars(module).values() if base and isinstance(cls, type) and issubclass(cls, base)
             and not inspect.isabstract(cls)]
    return f"{key}: there is no class {found[1]}; expected {', '.join([*names, 'or the import path of your own'])}"


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
        return {**commands, **{name: {"model", "datamodule"} for name in ("rollout", "export", "analyze")}}

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
        super().parse_arguments(parser, args)
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        said = any(re.match(r"--[\w.]+\.unsandboxed(=|$)", argument) for argument in sys.argv)
        if self._guarded and not said and any(name.endswith(".unsandboxed") and v for name, v in config.items()):
            raise UserError("the run's configuration would let what a model writes run outside the sandbox: say "
                            "yourself whether it may, with --data.task.unsandboxed true or false")
        seed = config.seed_everything
        if not 0 <= seed < 2**32:
            raise UserError(f"seed_everything {seed} is not possible: expected a whole number from 0 to 4,294,967,295")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand] if self.subcommand else self.config
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
        content = _yaml(str(path))
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
        config, strategy, content = self.config_init[self.subcommand], self.trainer.strategy, None
        if config.ckpt_path:
            if rank_zero_only.rank == 0:
                path, content = read_checkpoint(config.ckpt_path)
                config.ckpt_path = str(path)
            strategy.checkpoint_io = ReadOnce(strategy, content)

    before_validate = before_test = before_rollout = before_export = _read

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
        if subcommand in ("rollout", "export"):
            return (f"the {subcommand} does not fit in the device's memory: give --evaluation.decoding.weights "
                    f"bfloat16, or --trainer.accelerator cpu")
        evaluation = self.config[subcommand].evaluation
        alone = " (or --evaluation.verify_problems, which are side by side too)" if evaluation.verify_lengths else ""
        return (f"an evaluation of {evaluation.batch_size} rows side by side does not fit in the device's memory: give "
                f"a smaller --evaluation.batch_size{alone}")

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        for callback in self.trainer.callbacks:
            if isinstance(callback, LengthGeneralization):
                callback.check_task(self.datamodule.task)  # before the training, not after it


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


def trusted(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """The arguments without --trusted_packages, and what was given for it; None if it was not given."""
    option, kept, packages = "--trusted_packages", [], None
    for before, argument in itertools.pairwise(["", *arguments]):
        if before == option or argument.startswith(f"{option}="):
            packages = (packages or []) + [name for name in argument.removeprefix(f"{option}=").split(",") if name]
        elif argument != option:
            kept.append(argument)
    if arguments[-1:] == [option]:
        raise UserError(f"{option} needs names of packages with commas between")
    return kept, packages


def complete(arguments: list[str]) -> tuple[list[str], bool]:
    """Fill in what the user left out: evaluations take the newest run (`fit --ckpt_path last` needs its settings).

    Whether a configuration is taken that the user has not named, too.
    """
    arguments, found = _shipped(arguments), False
    for name in [*_values(arguments, "--config"), *_values(arguments, "-c")]:
        _yaml(name)
    given = {argument.split("=")[0] for argument in arguments}
    command = arguments[0] if arguments else ""
    trained = command in ("test", "validate", "rollout", "export", "analyze")
    if trained and not given & {"-h", "--help", "--print_config"}:
        if _values(arguments, "--ckpt_path")[-1:] == ["last"]:
            arguments += [f"--ckpt_path={newest_run() / CHECKPOINT}"]
        if not given & {"-c", "--config"}:
            run = _trained(*_values(arguments, "--ckpt_path")[-1:])
            arguments[1:1] = run[:2] if command == "analyze" else run
            found = True
        elif command in ("test", "validate") and not given & {"--ckpt_path"}:
            raise UserError(f"{command} needs a trained model: give --ckpt_path, or no --config to take the newest run")
        arguments += ["--trainer.logger", "false"]  # results go to the run's folder, not to a new one
    return arguments, found


def _shipped(arguments: list[str]) -> list[str]:
    """The arguments, with the path of a shipped configuration for one that is not in the working folder."""
    parts = [part for argument in arguments for part in
             (argument.split("=", 1) if argument.startswith(("--config=", "-c=")) else [argument])]
    return [str(shipped(part)) if option in ("--config", "-c") else part
            for option, part in itertools.pairwise(["", *parts])]


def _yaml(path: str) -> Any:
    """A configuration file's content. UserError if it is not there or not YAML; the parser would not name it."""
    if not Path(path).is_file():
        raise UserError(f"there is no configuration file {path}: configs/ has some, found from any folder")
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _not_text(arguments: list[str]) -> str:
    """What is wrong with an option that was given a file that is no text; the parser names neither."""
    pairs = [*itertools.pairwise(arguments), *(argument.split("=", 1) for argument in arguments if "=" in argument)]
    for option, path in pairs:
        if option.startswith("--") and os.path.isfile(path):
            try:
                with open(path, encoding="utf-8") as file:
                    file.read(2**20)
            except UnicodeDecodeError:
                return f"{option} {path} is no text, and a YAML file is expected there (--ckpt_path takes checkpoints)"
    return ""


def _trained(checkpoint: str | None = None) -> list[str]:
    """Arguments that name the configuration and the checkpoint of a run: the newest, or that of `checkpoint`."""
    if checkpoint:
        existing(checkpoint)
    run = Path(checkpoint).resolve().parent.parent if checkpoint else newest_run()
    if not (run / "config.yaml").is_file():
        raise UserError(f"{checkpoint} has no run folder with a config.yaml around it: give its --config too")
    print(f"run: {run}", file=sys.stderr)
    return ["--config", str(run / "config.yaml"), "--ckpt_path", checkpoint or str(run / CHECKPOINT)]


def _values(arguments: list[str], name: str) -> list[str]:
    """What was given for an option, each time that it was."""
    following = itertools.pairwise(arguments)
    return [value for option, value in following if option == name] + \
        [argument[len(name) + 1 :] for argument in arguments if argument.startswith(name + "=")]


def command_line(**options: Any) -> CLI:
    """The suite's LightningCLI, which reads sys.argv; `run=False` only builds model, data and trainer."""
    about = ("Three more commands: sweep (a grid of runs), report (docs/results.md from the files in results/) and "
             "collect (trajectories for code fixing); each has its own --help. A configuration is a program. One that "
             "you name may import anything, one of a run folder only this suite, Lightning, and what you name with "
             "--trusted_packages, with commas between; with that option, so may those that you name.")
    return CLI(TrajectoryModel, TrajectoryDataModule, save_config_callback=SaveConfig, trainer_class=Trainer,
               parser_kwargs={"epilog": about},
               trainer_defaults={"use_distributed_sampler": False, "num_sanity_val_steps": 0},
               seed_everything_default=42, **options)


def main(arguments: list[str]) -> None:
    # The working folder, for tasks of the user's own; last, so that it hides no module. By its name, for "" is the
    # folder of a configuration while that is read, which may be a fetched one.
    sys.path[:] = dict.fromkeys([*(folder or os.getcwd() for folder in sys.path), os.getcwd()])
    try:
        if arguments[:1] in (["report"], ["sweep"], ["collect"]):
            auto_cli({"report": report, "sweep": sweep, "collect": collect}, args=arguments, parser_class=Parser)
            return
        if torch.cuda.is_available():
            ensure_triton_cache()
        given, packages = trusted(arguments)
        sys.argv[1:], found = complete(given)
        if guarded := found or packages is not None:
            import_only(packages or ())
        callbacks = command_line(guarded=guarded).trainer.callbacks
        if any(isinstance(callback, LastCheckpoint) and callback.terminated for callback in callbacks):
            raise SystemExit(REQUEUE)
    except UserError as error:
        message = str(error)
    except MemoryError:
        message = "what is asked for does not fit in this machine's memory: give smaller sizes or lengths"
    except UnicodeDecodeError:
        message = _not_text(arguments)
        if not message:
            raise
    except MisconfigurationException as error:
        message = " ".join(str(error).split())
    except torch.distributed.DistBackendError as error:
        message = f"another process of this run has ended, see its message ({' '.join(str(error).split())[:200]})"
    except torch.distributed.DistError as error:
        message = (f"the processes cannot reach each other ({' '.join(str(error).split())[:300]}): give another port, "
                   f"such as MASTER_PORT=29600")
    except OSError as error:
        if not error.filename:
            raise
        message = (f"{error.filename}: {error.strerror}; give a folder that can be written to with "
                   f"--trainer.logger.save_dir")
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        message = f"another process of this run has ended, see its message ({' '.join(str(error).split())[:200]})"
    else:
        return
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def program() -> None:
    """The installed command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(sys.argv[1:])


if __name__ == "__main__":
    program()
