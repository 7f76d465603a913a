"""What a command line says, and what it leaves to be found: the newest run, a shipped configuration."""

import itertools
import os
import sys
from pathlib import Path
from typing import Any

from length_gen.lightning_modules.provenance import CHECKPOINT, shipped
from length_gen.lightning_modules.runs.checkpoints import existing
from length_gen.lightning_modules.runs.folders import newest_run
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml


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
        yaml_file(name)
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


def yaml_file(path: str) -> Any:
    """A configuration file's content. UserError if it is not there or not YAML; the parser would not name it."""
    if not Path(path).is_file():
        raise UserError(f"there is no configuration file {path}: configs/ has some, found from any folder")
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def not_text(arguments: list[str]) -> str:
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
