"""What `--help` says: of all commands without importing what they need, and of one command on two screens."""

import os
import re
import sys
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic

COMMANDS = {
    "fit": ("train a model, then evaluate it at growing lengths",
            "--config configs/mult.yaml --model.learning_rate 3e-3"),
    "validate": ("evaluate a trained model as during its training", "--ckpt_path last"),
    "test": ("evaluate a trained model again: the newest, or that of --ckpt_path",
             "--evaluation.lengths [10,100,1000]"),
    "rollout": ("solve one problem with the real tool, step by step", "--prompt 123456789x42"),
    "analyze": ("how far back a model must look, by length, without training",
                "--config configs/add.yaml --data.task.style paper"),
    "certify": ("prove that a model is exact at every length, or find where it errs", "--ckpt_path last"),
    "data": ("write trajectories as a data set for datasets and TRL",
             "--config configs/add.yaml --out data --count 100000"),
    "export": ("write a trained model for transformers", "--out folder"),
    "publish": ("write a trained model for others, with its results and a card", "--out folder"),
    "sweep": ("run a grid of trainings; cells that are done are skipped",
              "configs/sweeps/addition.yaml --parallel 2"),
    "reproduce": ("a cell of the paper's tables beside ours; trained if not there", "table1 mamba/multiplication"),
    "report": ("write docs/results.md and its pages from the files in results/", ""),
    "score": ("score any model's trajectories or answers on a benchmark", "answers.jsonl"),
    "collect": ("collect trajectories for configs/codefix.yaml", "trajectories/interactive"),
}
"""Name of each command -> what it does, and arguments of an example."""

OWN = {
    "help": "show this",
    "config": "a configuration; several are laid over each other",
    "print_config": "print all settings, and do nothing",
    "seed_everything": "seed of the weights and of the training stream, never of the test problems",
    "ckpt_path": "checkpoint to go on from, or to evaluate, or its run's folder; last: the newest; or a name "
                 "in results/models/",
}
"""Options beside the configuration, in other words than the parser's."""

TRAINER = {
    "accelerator": "cpu, gpu, or auto: whatever there is",
    "devices": "how many, or which, such as [0,1]",
    "precision": "32-true, or bf16-mixed on a GPU",
    "strategy": "auto, ddp; configs/trainer/fsdp.yaml shards the model",
    "max_steps": "optimizer steps",
    "max_time": "ends the training after so long: DD:HH:MM:SS",
    "val_check_interval": "steps between validations",
    "log_every_n_steps": "steps between points of the curves",
    "accumulate_grad_batches": "batches of one step",
    "gradient_clip_val": "largest norm of the gradient",
    "logger": "class, or several in a list; false: none",
    "logger.save_dir": "where runs go, as <save_dir>/<name>/<version>",
    "logger.name": "of the experiment",
    "callbacks": "classes of Lightning's, or your own",
    "enable_progress_bar": "false: none",
}
"""The options of Lightning's trainer that a help lists, in fewer words than its own."""

COMMON = ("accelerator", "devices", "precision")
"""Those of them that matter where nothing is trained."""


def overview(program: str) -> str:
    """All commands, a line each."""
    lines = [f"    {name:10}{about}" for name, (about, _) in COMMANDS.items()]
    return "\n".join([f"usage: {program} COMMAND ..., where COMMAND --help says more:", "", *lines, "", "example:",
                      f"    python run.py fit {COMMANDS['fit'][1]}"])


def of_command(command: str, program: str, options: dict[str, str], epilog: str) -> str:
    """The help of a command that takes a configuration, a line an option, in 80 columns.

    options: name without dashes -> what it is for
    """
    about, example = COMMANDS[command]
    lines = [f"usage: {program} [--config FILE] [--KEY VALUE ...]", "", f"{about[0].upper()}{about[1:]}.", "",
             "example:", f"    python run.py {command} {example}", ""]
    wanted = {"fit": r"(?!evaluation\.decoding)", "validate": "evaluation", "test": "evaluation"}.get(
        command, r"evaluation\.decoding")
    own = {name: OWN.get(name, text) for name, text in options.items() if "." not in name and name != "weights_only"}
    lines += ["options:", *_lines(own)]
    for part in ("data", "model", "evaluation", "checkpoint"):
        named = {name: text for name, text in options.items()
                 if name.startswith(f"{part}.") and re.match(wanted, name)}
        lines += [f"{part}:"] * bool(named) + _lines(named)
    lines += ["trainer:", *_lines({f"trainer.{name}": text for name, text in TRAINER.items()
                                   if command == "fit" or name in COMMON})]
    lines += ["", *textwrap.wrap("Every key of a configuration is an option; --print_config prints them all, and "
                                 "--data.task.help CLASS or --model.backbone.help CLASS those of a class. "
                                 + epilog, 80)]
    return "\n".join(lines) + "\n"


def _lines(options: dict[str, str]) -> list[str]:
    """Options and their descriptions side by side, each in at most two lines."""
    width, lines = max(map(len, options), default=0), []
    for name, text in options.items():
        text = " ".join(text.split()).rstrip(".")
        first, *rest = textwrap.wrap(text, 74 - width, max_lines=2, placeholder=" ...") or [""]
        lines += [f"  --{name:{width}}  {first}".rstrip(), *(f"{'':{width + 6}}{line}" for line in rest)]
    return lines


def with_example(command: str, text: str) -> str:
    """The parser's help of another command, with an example."""
    return f"{text.rstrip()}\n\nexample:\n    python run.py {command} {COMMANDS[command][1]}".rstrip() + "\n"


def described(actions: Iterable[Action]) -> dict[str, str]:
    """Options of a parser, without dashes, and what they are for; not those that only stand for a group of others."""
    named = {max(action.option_strings, key=len).strip("-+"): action.help for action in actions
             if action.option_strings and action.option_strings[0].startswith("-") and action.help != SUPPRESS}
    return {name: text or "" for name, text in named.items() if not name.endswith(".help")
            and name not in ("optimizer", "lr_scheduler") and not any(f"{name}." in other for other in named
                                                                      if not other.endswith(".help"))}


def program() -> None:
    """The installed command. Only what is asked for is imported: PyTorch takes seconds."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.argv[1:2] in ([], ["-h"], ["--help"]):
        print(overview(Path(sys.argv[0]).name))
        return
    with waiting("loading PyTorch and Lightning ..."):
        from length_gen.lightning_modules.commands.main import main
    main(sys.argv[1:])


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line on a terminal while something takes long, with the seconds; gone at the end."""
    ended = Event()

    def count() -> None:
        begun = monotonic()
        while True:
            print(f"{text} {monotonic() - begun:.0f} s".removesuffix(" 0 s"), end="\r", file=sys.stderr, flush=True)
            if ended.wait(1):
                print("\x1b[2K", end="", file=sys.stderr, flush=True)
                return

    thread = Thread(target=count, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident:
            thread.join()
