import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from length_gen.datamodules.datamodule import TimedLoader
from length_gen.lightning_modules.training.callbacks import DataWait


def test_the_share_of_waiting_for_data_is_logged(tmp_path, clock):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            clock.wait(0.6)
            return torch.randn(32)

    class Model(BoringModel):
        def training_step(self, batch, batch_idx):
            clock.wait(0.2)
            return super().training_step(batch, batch_idx)

    trainer = lightning.Trainer(max_steps=8, log_every_n_steps=2, callbacks=[DataWait()], default_root_dir=tmp_path,
                                logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
                                enable_model_summary=False, limit_val_batches=0)
    trainer.fit(Model(), TimedLoader(Rows(), batch_size=1))
    assert trainer.callback_metrics["train/data_wait_share"] == pytest.approx(0.75)
