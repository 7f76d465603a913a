"""The parser of all commands: a mistake is told in one line."""

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from length_gen.datamodules import tasks
from length_gen.datamodules.tasks import Task, ToolTask
from length_gen.lightning_modules import backbones
from length_gen.lightning_modules.backbones import Backbone
from length_gen.lightning_modules.commands.help import COMMANDS, described, of_command, with_example
from length_gen.lightning_modules.provenance import shipped
from length_gen.lightning_modules.runs.old_class_paths import renamed
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml

_load = get_loader("yaml")
set_loader("yaml", lambda text: renamed(_load(text)), (yaml.YAMLError,))


class ConfigFile(ActionConfigFile):
    """A configuration file; one that is not in the working folder is the suite's own of that name."""

    def __call__(self, parser: Any, cfg: Any, values: str, option_string: str | None = None) -> None:
        """Read it. UserError if it is not there or not YAML, of which the parser would not say which it was."""
        path = shipped(values)
        yaml_file(path)
        super().__call__(parser, cfg, str(path), option_string)


def yaml_file(path: Path) -> Any:
    """A configuration file's content. UserError if it is not there or not YAML."""
    if not path.is_file():
        raise UserError(f"there is no configuration file {path}: configs/ has some, found from any folder by "
                        f"their names, such as add or model/gru_small")
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


class Parser(LightningArgumentParser):
    """Tells a mistake in one line, and a command's options on two screens."""

    def format_help(self) -> str:
        """The help of a command in short; of a class, whose name ends `prog`, as the base class does."""
        name, options = self.prog.split()[-1], described(self._actions)
        if name not in COMMANDS:
            return super().format_help()
        if any("." in option for option in options):
            return of_command(name, self.prog, options, self.epilog)
        return with_example(name, super().format_help())

    def parse_args(self, args: list[str], *others: Any, **kwargs: Any) -> Any:
        """Parse arguments as the base class does; what that raises for a value ends in `error` too."""
        try:
            return super().parse_args(args, *others, **kwargs)
        except UnicodeDecodeError as error:
            files = [part.split("=", 1)[-1] for part in args]
            what = next(filter(_is_no_text, files), "a file that the configuration names")
            self.error(f"{what} is no text, and a YAML file is expected there (--ckpt_path takes checkpoints)", error)
        except ValueError as error:  # such as a path with a character of code 0
            self.error(str(error), error)

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Print a mistake in one line of at most 600 characters, a UserError in its cause before all, and exit with
        code 2."""
        cause = ex
        while cause is not None:
            if isinstance(cause, UserError):
                message = str(cause)
            cause = cause.__cause__ or cause.__context__
        text = _told(" ".join(str(message).split()))
        print(f"error: {text[:600]}{' ...' if len(text) > 600 else ''}", file=sys.stderr)
        raise SystemExit(2)


def _is_no_text(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with open(path, encoding="utf-8") as file:
            file.read(2**20)
    except UnicodeDecodeError:
        return True
    return False


def _told(text: str) -> str:
    """The parser's message; where there is no such class, with those that there are, or where it was looked for.

    By its words: of all that a value does not fit, in a union say, the parser's errors keep the words and few types.
    """
    if refused := re.search(r"Importing '([\w.]+)' is not allowed, denied by the", text):
        return (f"{refused[1]} has not been imported: a configuration is a program, and this one, of a run folder, may "
                f"name only what is of this suite and Lightning; if you trust it, give "
                f"--trusted_packages {refused[1].partition('.')[0]}")
    if (lacking := re.search(r"arguments are required: (\w+)\.([\w., ]+)$", text)) and lacking[1] in COMMANDS:
        command = lacking[1]
        return (f"{command} needs {lacking[2].replace(f'{command}.', '')}, as in `python run.py {command} "
                f"{COMMANDS[command][1]}`; {command} --help says what they are")
    if missing := re.search(r"No module named '[\w.]+'", text):
        given = re.search(r"(?:class_path '|Got value: )([\w.]+)", text)
        own = [os.path.abspath(folder) for folder in sys.path if not folder.startswith((sys.prefix, sys.base_prefix))]
        return (f"{given[1] if given else text} cannot be imported: {missing[0]}; searched: {', '.join(own)} and what "
                f"is installed; run in the folder of your file, or name that in PYTHONPATH")
    if not (found := re.search(r"Expected a dot import path string: ([\w.]+)", text)):
        return text
    key = text.partition('Parser key "')[2].partition('"')[0]
    base = {"data.task": Task, "tasks": ToolTask, "model.backbone": Backbone}.get(key)
    names = [cls.__name__ for module in (tasks, backbones)
             for cls in vars(module).values() if base and isinstance(cls, type) and issubclass(cls, base)
             and not inspect.isabstract(cls)]
    return f"{key}: there is no class {found[1]}; expected {', '.join([*names, 'or the import path of your own'])}"
