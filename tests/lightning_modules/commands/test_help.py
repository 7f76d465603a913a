"""What `--help` says, of all commands and of each."""

import shlex
import subprocess
import sys

import pytest

from length_gen.lightning_modules.commands.help import COMMANDS, TRAINER, overview
from length_gen.lightning_modules.commands.main import FUNCTIONS, PAGES, main
from tests.commands import ROOT


@pytest.fixture
def shown(monkeypatch, capsys):
    """What a command line prints that ends at once."""
    def show(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        with pytest.raises(SystemExit):
            main(list(arguments))
        return capsys.readouterr().out

    return show


def test_all_commands_are_listed_without_waiting_for_pytorch():
    """On a machine with nothing else to do it takes 0.05 s; PyTorch takes seconds."""
    code = ("import sys; from length_gen.lightning_modules.commands.help import program; program(); "
            "print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])")
    result = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True,
                            timeout=60)
    text, last = result.stdout.rstrip().rsplit("\n", 1)
    assert last == "[]" and text == overview("-c"), result.stderr
    assert set(COMMANDS) == {"fit", "validate", "test", *FUNCTIONS, *PAGES}
    assert all(name in text for name in COMMANDS) and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_is_two_screens_with_an_example(command, shown):
    text = shown(command, "--help")
    lines = text.splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 80
    example = lines[lines.index("example:") + 1].strip()
    assert example == f"python run.py {command} {COMMANDS[command][1]}".strip()
    options = {part.lstrip("-").partition("=")[0] for part in shlex.split(example) if part.startswith("--")}
    assert options <= {line.split()[0].lstrip("-") for line in lines if line.startswith("  --")} | {"task.style"} | {
        "data.task.style"}


def test_what_is_listed_of_the_trainer_is_there(shown):
    text = shown("fit", "--help")
    keys = shown("fit", "--config", "configs/add.yaml", "--print_config").partition("\ntrainer:\n")[2]
    assert all(f"--trainer.{name} " in text for name in TRAINER)
    assert all(f"  {name.rpartition('.')[2]}:" in keys for name in TRAINER)


def test_the_help_of_a_class_says_all_of_it(shown):
    text = shown("fit", "--model.backbone.help", "Mamba")
    assert "--model.backbone.n_layer N_LAYER" in text and "--model.backbone.dt_min DT_MIN" in text
