"""What each tracker keeps, on this machine alone."""

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from length_gen.lightning_modules.training.callbacks.trackers import show

TEXTS = {"stream": "| length |\n|---|", "sample trace": "▸p1.init"}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """A function that gives a logger what a run does."""
    monkeypatch.chdir(tmp_path)

    def give(logger):
        logger.log_hyperparams({"backbone": "mamba 1x16", "seed": 3})
        logger.log_metrics({"final/exact_up_to": 7.0}, 5)
        pyplot.imsave("curve.png", [[0.0, 1.0]])
        show(logger, "accuracy by length", Path("curve.png"), TEXTS, 5)
        logger.save()
        return logger

    return give


def test_tensorboard(shown):
    logger = shown(TensorBoardLogger(".", "t", "v"))
    logger.finalize("success")
    tags = EventAccumulator("t/v").Reload().Tags()
    assert tags["images"] == ["accuracy by length"] and "final/exact_up_to" in tags["scalars"]
    assert {f"{name}/text_summary" for name in TEXTS} <= set(tags["tensors"])


def test_csv(shown):
    shown(CSVLogger(".", "t", "v"))
    assert {path.name: path.read_text() for path in Path("t/v").glob("*.md")} == {
        f"{name}.md": text for name, text in TEXTS.items()}
    assert "final/exact_up_to" in Path("t/v/metrics.csv").read_text()
    assert "mamba 1x16" in Path("t/v/hparams.yaml").read_text()


@pytest.mark.slow
def test_wandb_offline(shown, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = shown(WandbLogger(project="mine", offline=True, save_dir="."))
    files = Path(logger.experiment.dir)
    wandb.finish()
    assert len(list(files.glob("media/images/*.png"))) == 1
    tables = [json.loads(path.read_text()) for path in files.glob("media/table/*.json")]
    assert sorted(table["data"][0][0] for table in tables) == sorted(TEXTS.values())


@pytest.mark.slow
def test_mlflow_in_a_database_file(shown):
    pytest.importorskip("mlflow", reason="mlflow is not installed: it brings more than twenty packages")
    logger = shown(MLFlowLogger("mine", tracking_uri="sqlite:///mlflow.db", artifact_location="kept"))
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.params == {"backbone": "mamba 1x16", "seed": "3"}
    assert run.data.metrics == {"final/exact_up_to": 7.0}
    assert {path.name for path in Path("kept").rglob("*.*")} == {"curve.png", "stream.md",
                                                                "sample trace.md"}


def test_a_kind_that_is_not_known_loses_nothing_else():
    show(object(), "accuracy by length", Path("curve.png"), TEXTS, 5)
