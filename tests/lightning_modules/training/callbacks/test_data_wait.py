import time

import lightning
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from length_gen.datamodules.datamodule import TimedLoader
from length_gen.lightning_modules.training.callbacks import DataWait


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(0.05)
        return torch.randn(32)


def test_the_share_of_waiting_for_data_is_logged(tmp_path):
    trainer = lightning.Trainer(max_steps=8, log_every_n_steps=2, callbacks=[DataWait()], default_root_dir=tmp_path,
                                logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
                                enable_model_summary=False, limit_val_batches=0)
    trainer.fit(BoringModel(), TimedLoader(Slow(), batch_size=1))
    assert 0.5 < trainer.callback_metrics["train/data_wait_share"] <= 1
