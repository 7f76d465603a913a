"""The command line's beginning and end: which command, and what is told of an error."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import auto_cli
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from length_gen.lightning_modules.backbones.cuda_kernels import ensure_triton_cache
from length_gen.lightning_modules.commands.analyze import analyze
from length_gen.lightning_modules.commands.arguments import Arguments
from length_gen.lightning_modules.commands.certify import certify
from length_gen.lightning_modules.commands.collect import collect
from length_gen.lightning_modules.commands.command_line import CLI
from length_gen.lightning_modules.commands.data import data
from length_gen.lightning_modules.commands.export import export
from length_gen.lightning_modules.commands.help import COMMANDS, overview
from length_gen.lightning_modules.commands.parser import Parser
from length_gen.lightning_modules.commands.publish import publish
from length_gen.lightning_modules.commands.reproduce import reproduce
from length_gen.lightning_modules.commands.rollout import rollout
from length_gen.lightning_modules.commands.score import score
from length_gen.lightning_modules.errors import is_lost_process
from length_gen.lightning_modules.reporting.report import report
from length_gen.lightning_modules.runs.sweep import sweep
from length_gen.lightning_modules.training.callbacks import REQUEUE, LastCheckpoint
from length_gen.lightning_modules.training.callbacks.peers import LINE
from length_gen.tools import UserError

warnings.filterwarnings("ignore", ".*does not have many workers.*")  # on the CPU none is right
warnings.filterwarnings("ignore", ".*Experiment logs directory.*")  # a run's folder is its own
warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of PyTorch
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(  # what is of no use, or said anyway
    lambda record: not any(part in str(record.msg) for part in ("litlogger", "TPU available", "reached.")))


FUNCTIONS = {"rollout": (rollout, True), "export": (export, True), "publish": (publish, True),
             "certify": (certify, True), "analyze": (analyze, False), "data": (data, False)}
"""Commands on a run, and whether they need its weights."""

PAGES = {"report": report, "reproduce": reproduce, "sweep": sweep, "collect": collect, "score": score}
"""Commands without a run."""


def main(arguments: list[str]) -> None:
    """Run a command with its arguments; a user's mistake is one line on stderr and exit code 2.

    Exits with `REQUEUE` where SIGTERM ended a training, which is saved.
    """
    # The working folder, for tasks of the user's own; last, so that it hides no module. By its name, for "" is the
    # folder of a configuration while that is read, which may be a fetched one.
    sys.path[:] = dict.fromkeys([*(folder or os.getcwd() for folder in sys.path), os.getcwd()])
    try:
        command(*arguments[:1], arguments=arguments[1:])
    except Exception as error:
        if not (message := told(error)):
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def command(name: str = "--help", arguments: Sequence[str] = ()) -> None:
    """Run the command of that name. Raises UserError if there is none, or for a mistake in its arguments."""
    if name in ("-h", "--help"):
        print(overview(Path(sys.argv[0]).name))
    elif name in PAGES:
        auto_cli(PAGES, args=[name, *arguments], parser_class=Parser)
    elif name not in COMMANDS:
        raise UserError(f"there is no command {name}: expected {', '.join(COMMANDS)}")
    else:
        if torch.cuda.is_available():
            ensure_triton_cache()
        cli = CLI(name, Arguments.of(name, arguments, name != "fit"), *FUNCTIONS.get(name, ()))
        cli.call()
        if any(isinstance(callback, LastCheckpoint) and callback.terminated for callback in cli.trainer.callbacks):
            raise SystemExit(REQUEUE)


def told(error: Exception) -> str:
    """A mistake of the user's, or a state of the machine, in one line; "" for an error of the suite's own."""
    text = " ".join(str(error).split())
    match error:
        case UserError():
            return str(error)
        case MisconfigurationException():
            return text
        case MemoryError():
            return "what is asked for does not fit in this machine's memory: give smaller sizes or lengths"
        case RuntimeError() if is_lost_process(error):
            return f"{LINE} ({text[:200]})"
        case torch.distributed.DistError():
            return (f"the processes cannot reach each other ({text[:300]}): give another port, such as "
                    f"MASTER_PORT=29600")
        case OSError() if error.filename:
            return (f"{error.filename}: {error.strerror}; give a folder that can be written to with "
                    f"--trainer.logger.save_dir")
    return ""
