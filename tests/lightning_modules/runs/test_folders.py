"""What a run leaves, where, and what goes on from it, whatever its loggers are called."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Callback
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.runs import checkpoints
from length_gen.lightning_modules.runs.folders import RunFolder, differences, newest_run
from tests.commands import TINY

FEW = ["fit", *TINY, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--evaluation.evaluators",
       "[verify]", "--evaluation.lengths", "[2]"]


class Remote(Logger):
    """As wandb's: a name and a version of its own, and files below `save_dir` that are not in a run folder's places."""

    def __init__(self, name: str | None = None, save_dir: str = ".", version: str | None = None):
        super().__init__()
        self._name, self.folder, self._version = name, Path(save_dir, "remote"), version

    @property
    def name(self):
        return self._name

    @property
    def version(self):
        return self._version

    @property
    def save_dir(self):
        return str(self.folder.parent)

    def log_hyperparams(self, *arguments, **options):
        pass

    def log_metrics(self, metrics, step=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "steps.txt", "a", encoding="utf-8") as file:
            file.write(f"{step} {min(metrics)}\n")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


def listed(*loggers):
    return yaml.safe_dump([{"class_path": name, "init_args": settings} for name, settings in loggers],
                          default_flow_style=True)


BOARD, TABLE = (("lightning.pytorch.loggers." + name, {"save_dir": "runs", "name": "add"})
                for name in ("TensorBoardLogger", "CSVLogger"))
REMOTE = (f"{__name__}.Remote", {})
CASES = {
    "none": (["--trainer.logger", "false"], "runs/addition"),
    "CSV": (["--trainer.logger", "CSVLogger"], "runs/add"),
    "three, wandb's first": (["--trainer.logger", listed(REMOTE, TABLE, BOARD)], "runs/add"),
    "elsewhere, a name with a slash": (["--trainer.logger.save_dir", "PLACE/other place", "--trainer.logger.name",
                                        "sums/short"], "PLACE/other place/sums/short"),
}


SLOW = ("CSV", "three, wandb's first")


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case
                                  for case in CASES])
def test_every_run_has_its_folder_and_is_found_again(case, tmp_path, capsys):
    """A run, one that goes on, and the evaluations of the newest; then another run."""
    options = [option.replace("PLACE", str(tmp_path)) for option in CASES[case][0]]
    experiment = CASES[case][1].replace("PLACE", str(tmp_path))
    first = Path(experiment, "version_0")
    main([*FEW, *options])
    (first / "metrics.json").unlink()
    main([*FEW, *options, "--ckpt_path", "last"])
    assert all((first / name).is_file() for name in ("config.yaml", "checkpoints/last.ckpt", "metrics.json",
                                                     "curve.png"))
    main(["test", "--trusted_packages", "tests"])
    assert (first / "test/metrics.json").is_file()
    main(["rollout", "--prompt", "1+2", "--trusted_packages=tests"])
    assert "expected 3" in capsys.readouterr().out
    main([*FEW, *options, "--trainer.max_steps", "1"])
    assert sorted(path.name for path in Path(experiment).iterdir()) == ["version_0", "version_1"]
    assert newest_run().resolve() == Path(experiment, "version_1").resolve()
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "other place"}
    if "BoardLogger" in str(options) or case.startswith("elsewhere"):
        board = EventAccumulator(str(first), {IMAGES: 0, SCALARS: 0}).Reload()
        assert board.Tags()["images"] == ["accuracy by length"] and "validation/loss" in board.Tags()["scalars"]
    if "CSVLogger" in str(options):
        assert "validation/loss" in (first / "metrics_before_0.csv").read_text()
        assert "final/exact_up_to" in (first / "metrics.csv").read_text()
        assert "**prompt**" in (first / "sample trace.md").read_text()
        assert "mamba" in (first / "hparams.yaml").read_text()
    if "Remote" in str(options):
        assert (first / "remote/steps.txt").is_file() and not Path("remote").exists()


def test_a_run_elsewhere_needs_no_folder_here(tmp_path):
    Path("runs").touch()  # a file where a folder is due, as a working folder that cannot be written to
    run = RunFolder(tmp_path / "other", "add")
    run.claim()
    assert run.path.is_dir() and run.version == "version_0"


def test_of_two_that_have_seen_the_same_next_version_one_takes_another(tmp_path, monkeypatch):
    first, second = RunFolder(tmp_path, "add"), RunFolder(tmp_path, "add")
    first.claim()
    glob, looks = Path.glob, []

    def before_the_first(path, pattern):
        looks.append(pattern)
        return glob(path, pattern) if len(looks) > 1 else iter([])

    monkeypatch.setattr(Path, "glob", before_the_first)
    second.claim()
    assert (first.version, second.version, len(looks)) == ("version_0", "version_1", 2)


def test_what_goes_on_is_a_run_of_the_same_configuration(capsys):
    """Not another experiment's, which is newer, nor one that would be another run; what its weights do not depend on
    may change, and the run goes on in its own folder."""
    main([*FEW, "--trainer.logger.name", "mine"])
    main([*FEW, "--trainer.logger.name", "other"])
    mine = [*FEW, "--trainer.logger.name", "mine", "--ckpt_path", "last"]
    for options in (["--model.learning_rate", "0.1"], ["--seed_everything", "7"], ["--trainer.max_steps", "3"],
                    ["--data.task.max_length", "4"], ["--trainer.gradient_clip_val", "0.5"]):
        with pytest.raises(SystemExit):
            main([*mine, *options])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        before = {"--model.learning_rate": "0.005", "--seed_everything": "42", "--trainer.max_steps": "2",
                  "--data.task.max_length": "5", "--trainer.gradient_clip_val": "1.0"}[options[0]]
        name = options[0].removeprefix("--").replace("task.max", "task.init_args.max")
        assert f"another configuration: {name} {options[1]} (in the run {before})" in error
    main([*mine, "--evaluation.lengths", "[2,3]", "--data.num_workers", "0", "--trainer.devices", "1"])
    assert [path.name for path in Path("runs/mine").iterdir()] == ["version_0"]
    saved = yaml.safe_load(Path("runs/mine/version_0/config.yaml").read_text())
    assert saved["evaluation"]["lengths"] == [2, 3] and saved["ckpt_path"] is None
    with pytest.raises(SystemExit):
        main([*FEW, "--trainer.logger.name", "none", "--ckpt_path", "last"])
    assert "there is no run with a checkpoint in runs/none/" in capsys.readouterr().err


class Killed(Callback):
    """Ends the run in its validation number `number` (from 0), or at a step, by an interrupt."""

    def __init__(self, number: int = -1, step: int = -1):
        self.left, self.step = number, step

    def on_validation_epoch_start(self, trainer, pl_module):
        self.left -= 1
        if self.left == -1:
            raise RuntimeError("killed")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def curve(folder):
    board = EventAccumulator(folder, {SCALARS: 0}).Reload()
    return {name: [(event.step, event.value) for event in board.Scalars(name)]
            for name in ("validation/loss", "exact_match/2", "exact_up_to")}


CUT = [*FEW, "--trainer.max_steps", "6", "--trainer.val_check_interval", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The curve of the run that was let alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        patch.setattr(sys, "argv", ["run.py"])
        main(CUT)
        return curve("runs/add/version_0")


@pytest.mark.parametrize("killed", [{"number": 0}, {"number": 2}, {"step": 3}, {"step": 2}], ids=str)
def test_a_validation_that_was_cut_off_is_made_up(killed, whole):
    """Killed in the first and in the last of three validations, and interrupted in a step that one follows and in one
    that none does: the curve is that of the run that was let alone."""
    spec = yaml.safe_dump({"class_path": f"{__name__}.Killed", "init_args": killed}, default_flow_style=True)
    broken = [*CUT, "--trainer.logger.name", "killed"]
    with contextlib.suppress(RuntimeError):
        main([*broken, f"--trainer.callbacks+={spec}"])
    assert not Path("runs/killed/version_0/metrics.json").exists()
    for _ in range(1 + ("number" in killed)):  # the second one has nothing left to do
        main([*broken, "--ckpt_path", "last"])
        assert curve("runs/killed/version_0") == whole
    assert [step for step, _ in whole["exact_up_to"]] == [1, 3, 5]


def test_the_last_step_may_change_where_the_learning_rate_does_not_depend_on_it():
    known = {"model": {"schedule": "constant"}, "trainer": {"max_steps": 2, "precision": "32-true"}}
    more = {"model": {"schedule": "constant"}, "trainer": {"max_steps": 3, "precision": "32-true"}}
    assert differences(known, more) == []
    cosine = [config | {"model": {"schedule": "cosine"}} for config in (known, more)]
    assert differences(*cosine) == ["trainer.max_steps 3 (in the run 2)"]


def test_a_checkpoint_is_read_once(monkeypatch):
    main(FEW)
    read, checked, load = [], [], torch.load
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: read.append(arguments) or load(
        *arguments, **options))
    monkeypatch.setattr(checkpoints.zipfile.ZipFile, "testzip", lambda archive: checked.append(archive))
    for command in (["rollout", "--prompt", "1+2"], ["test"], [*FEW, "--ckpt_path", "last"]):
        main(command)
        assert len(read) == len(checked) == 1, command
        read.clear(), checked.clear()


@pytest.mark.slow
def test_wandb_offline_writes_into_the_runs_folder(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    main([*FEW, "--trainer.logger", "WandbLogger", "--trainer.logger.project", "mine"])
    assert list(Path("runs/add/version_0/wandb").glob("offline-run-*/*.wandb"))
    assert Path("runs/add/version_0/metrics.json").is_file()


class Refuses(Remote):
    """Needs a server that is not there."""

    def __init__(self, uri="nowhere"):
        raise RuntimeError(f"there is no server {uri}")


def test_a_logger_that_refuses_is_told_in_one_line(refused):
    line = refused(*FEW, "--trainer.logger", f"{__name__}.Refuses")
    assert line == f"error: {__name__}.Refuses cannot be made: there is no server nowhere"
