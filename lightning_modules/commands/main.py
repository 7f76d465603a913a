"""The command line's beginning and end: which command, and what is told of an error."""

import logging
import os
import sys
import warnings

import torch
from jsonargparse import auto_cli
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from length_gen.lightning_modules.backbones.cuda_kernels import ensure_triton_cache
from length_gen.lightning_modules.commands.analyze import analyze
from length_gen.lightning_modules.commands.arguments import complete, not_text, trusted
from length_gen.lightning_modules.commands.collect import collect
from length_gen.lightning_modules.commands.command_line import command_line
from length_gen.lightning_modules.commands.export import export
from length_gen.lightning_modules.commands.parser import Parser
from length_gen.lightning_modules.commands.rollout import rollout
from length_gen.lightning_modules.reporting.report import report
from length_gen.lightning_modules.runs.sweep import sweep
from length_gen.lightning_modules.runs.trust import import_only
from length_gen.lightning_modules.training.callbacks import REQUEUE, LastCheckpoint
from length_gen.tools import UserError

warnings.filterwarnings("ignore", ".*does not have many workers.*")  # on the CPU none is right
warnings.filterwarnings("ignore", ".*Experiment logs directory.*")  # a run's folder is its own
warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of PyTorch
logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in str(record.msg))


FUNCTIONS = {"rollout": (rollout, True), "export": (export, True), "analyze": (analyze, False)}
"""Commands on a run, and whether they need its weights."""

PAGES = {"report": report, "sweep": sweep, "collect": collect}
"""Commands without a run."""

COMMANDS = ("fit", "validate", "test", *FUNCTIONS, *PAGES)


def main(arguments: list[str]) -> None:
    """Run a command with its arguments; a user's mistake is one line on stderr and exit code 2.

    Exits with `REQUEUE` where SIGTERM ended a training, which is saved.
    """
    # The working folder, for tasks of the user's own; last, so that it hides no module. By its name, for "" is the
    # folder of a configuration while that is read, which may be a fetched one.
    sys.path[:] = dict.fromkeys([*(folder or os.getcwd() for folder in sys.path), os.getcwd()])
    try:
        command = arguments[0] if arguments else ""
        if command in PAGES:
            auto_cli(PAGES, args=arguments, parser_class=Parser)
            return
        if command not in COMMANDS and not command.startswith("-") and command:
            raise UserError(f"there is no command {command}: expected {', '.join(COMMANDS)}")
        if torch.cuda.is_available():
            ensure_triton_cache()
        given, packages = trusted(arguments)
        sys.argv[1:], found = complete(given)
        if guarded := found or packages is not None:
            import_only(packages or ())
        if given[:1] and given[0] in FUNCTIONS:
            function, weights = FUNCTIONS[given[0]]
            command_line(function, weights=weights, guarded=guarded).call()
            return
        callbacks = command_line(guarded=guarded).trainer.callbacks
        if any(isinstance(callback, LastCheckpoint) and callback.terminated for callback in callbacks):
            raise SystemExit(REQUEUE)
    except UserError as error:
        message = str(error)
    except MemoryError:
        message = "what is asked for does not fit in this machine's memory: give smaller sizes or lengths"
    except UnicodeDecodeError:
        message = not_text(arguments)
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
