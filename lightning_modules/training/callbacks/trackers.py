"""What trackers show of a run beside its curves: a figure, and texts (tables, a trace). One function for all kinds."""

from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.image import imread


@singledispatch
def show(logger: Logger, name: str, figure: Path, texts: Mapping[str, str], step: int) -> None:
    """Give a logger a figure of that name, a PNG file, and texts in Markdown by their names.

    Of a kind that is not known it does nothing: the figure and the results are in the run's folder anyway. For a class
    of your own: `show.register`.
    """


@show.register
def _(logger: TensorBoardLogger, name: str, figure: Path, texts: Mapping[str, str], step: int) -> None:
    logger.experiment.add_image(name, imread(figure), step, dataformats="HWC")
    for title, text in texts.items():
        logger.experiment.add_text(title, text, step)


@show.register
def _(logger: WandbLogger, name: str, figure: Path, texts: Mapping[str, str], step: int) -> None:
    logger.log_image(name, [str(figure)])  # it counts its own steps, and refuses one that is not the newest
    for title, text in texts.items():
        logger.log_text(title, ["markdown"], [[text]])


@show.register
def _(logger: MLFlowLogger, name: str, figure: Path, texts: Mapping[str, str], step: int) -> None:
    logger.experiment.log_artifact(logger.run_id, str(figure))
    for title, text in texts.items():
        logger.experiment.log_text(logger.run_id, text, f"{title}.md")


@show.register
def _(logger: CSVLogger, name: str, figure: Path, texts: Mapping[str, str], step: int) -> None:
    for title, text in texts.items():  # its folder is the run's, which has the figure
        Path(logger.log_dir, f"{title}.md").write_text(text, encoding="utf-8")
