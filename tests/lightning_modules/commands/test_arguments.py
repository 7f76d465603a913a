"""What a command line says before a configuration is read."""

import os
import sys
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from length_gen.lightning_modules.commands.arguments import RUN, Arguments
from length_gen.lightning_modules.commands.main import main
from length_gen.tools import UserError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An old run and a newer one, which is returned, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("new", "old")):
        folder = Path("runs", name)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
        (folder / "checkpoints/last.ckpt").touch()
        os.utime(folder / "checkpoints/last.ckpt", (1e9 - age, 1e9 - age))
    return Path("runs/new")


def test_a_configuration_is_found_only_where_none_is_named(run):
    newest, other = run / "checkpoints/last.ckpt", Path("runs/old/checkpoints/last.ckpt")
    for named in (["--config", "a.yaml"], ["-c", "a.yaml"], ["--config=a.yaml"], ["-ca.yaml"]):
        assert Arguments.of("analyze", named, True) == Arguments(named)
        last = [*named, "--ckpt_path=last"]
        assert Arguments.of("test", last, True) == Arguments(last, checkpoint=newest)
        with pytest.raises(UserError, match="test needs a trained model"):
            Arguments.of("test", named, True)
    for given in ([], ["--ckpt_path", "last"], ["--evaluation.lengths", "[-1]", "--prompt", "-1+2"]):
        found = Arguments.of("rollout", given, True)
        assert found == Arguments(given, None, run / "config.yaml", newest)
    found = Arguments.of("test", [f"--ckpt_path={other}"], True)
    assert (found.config, found.checkpoint) == (other.parent.parent.resolve() / "config.yaml", other)
    for shown in (["--help"], ["-h"], ["--print_config"], ["--print_config=skip_default"]):
        assert Arguments.of("test", shown, True) == Arguments(shown)


def test_all_processes_of_a_command_take_the_same_run(run, monkeypatch):
    first = Arguments.of("test", [], True)
    os.utime("runs/old/checkpoints/last.ckpt")  # a training goes on beside it
    assert Arguments.of("test", [], True).checkpoint == Path("runs/old/checkpoints/last.ckpt")
    monkeypatch.setenv(RUN, str(run))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert Arguments.of("test", [], True) == first and first.config == run / "config.yaml"


def test_trusted_packages_are_taken_out(run):
    given = ["--a", "1", "--trusted_packages", "one,two", "-b", "--trusted_packages=three,", "--trusted", "x"]
    assert Arguments.of("fit", given, False) == Arguments(["--a", "1", "-b", "--trusted", "x"], ["one", "two", "three"])
    assert Arguments.of("fit", ["--trusted_packages="], False) == Arguments([], [])
    with pytest.raises(UserError, match="needs names of packages"):
        Arguments.of("fit", ["--trusted_packages"], False)


def test_the_programs_own_arguments_stay(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", given := ["run.py", "test", "--trusted_packages", "one"])
    with pytest.raises(SystemExit):
        main(given[1:])
    assert sys.argv == ["run.py", "test", "--trusted_packages", "one"] and "run: runs/new" in capsys.readouterr().err
