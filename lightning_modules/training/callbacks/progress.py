"""The progress bar of a run that has steps, not epochs."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class RunProgress(RichProgressBar):
    """Lightning's bar, with the loss, tokens/s and the length up to which all is exact as a person writes them."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        formats = {"loss": "{:.4f}", "tok/s": "{:,.0f}", "exact_up_to": "{:,.0f}"}
        return {name: formats.get(name, "{}").format(value) for name, value in metrics.items()}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training  "  # a stream has no epochs; as wide as "Validation"
