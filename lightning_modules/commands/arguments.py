"""What of a command line is needed before a configuration is read: which one, which checkpoint, whom to trust."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from length_gen.lightning_modules.provenance import CHECKPOINT, checkpoint_of
from length_gen.lightning_modules.runs.checkpoints import existing
from length_gen.lightning_modules.runs.folders import newest_run
from length_gen.tools import UserError

EVALUATIONS = ("validate", "test")

RUN = "LENGTH_GEN_NEWEST_RUN"
"""The environment's variable with the run that the first process has found."""


@dataclass(frozen=True)
class Arguments:
    """The arguments after a command's name, and what of a trained run was found for them.

    rest:       for the command's parser, without --trusted_packages
    packages:   that --trusted_packages names; None where it is not given
    config:     of the run that is taken because none is named
    checkpoint: of that run, or the newest for `--ckpt_path last`
    """

    rest: list[str]
    packages: list[str] | None = None
    config: Path | None = None
    checkpoint: Path | None = None

    @classmethod
    def of(cls, command: str, arguments: list[str], trained: bool) -> "Arguments":
        """What the user said, completed by the newest run, or that of the checkpoint.

        trained: whether it is a command on a trained run. Raises UserError where there is none.
        """
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        try:
            parser.add_argument("--trusted_packages", action="extend",
                                type=lambda text: [name for name in text.split(",") if name])
            trust, rest = parser.parse_known_args(arguments)
        except argparse.ArgumentError:
            raise UserError("--trusted_packages needs names of packages with commas between") from None
        parser.add_argument("-c", "--config", nargs="?", const="")
        parser.add_argument("--ckpt_path", nargs="?")
        parser.add_argument("-h", "--help", "--print_config", dest="shown", nargs="?", const=True)
        given, _ = parser.parse_known_args(rest)
        if not trained or given.shown:
            return cls(rest, trust.trusted_packages)
        if given.config is not None and given.ckpt_path is None and command in EVALUATIONS:
            raise UserError(f"{command} needs a trained model: give --ckpt_path, or no --config to take the newest run")
        if given.config is not None and given.ckpt_path != "last":
            return cls(rest, trust.trusted_packages)
        if given.ckpt_path in (None, "last"):
            # Processes that this one starts, for other devices, take the same, even where another is newer by then.
            run = newest_run() if rank_zero_only.rank == 0 else Path(os.environ.get(RUN) or newest_run())
            os.environ[RUN] = str(run)
            checkpoint = run / CHECKPOINT
        else:
            checkpoint = checkpoint_of(given.ckpt_path)
            existing(checkpoint)
            run = checkpoint.resolve().parent.parent
        if given.config is not None:
            return cls(rest, trust.trusted_packages, checkpoint=checkpoint)
        if not (run / "config.yaml").is_file():
            raise UserError(f"{checkpoint} has no run folder with a config.yaml around it: give its --config too")
        if rank_zero_only.rank == 0:
            print(f"run: {run}", file=sys.stderr)
        return cls(rest, trust.trusted_packages, run / "config.yaml", checkpoint)
