import functools
import time

import lightning
import pytest
import torch

from datamodules.datamodule import TrajectoryDataModule
from datamodules.tasks import Copy
from datamodules.tokens import Kind
from lightning_modules.backbones import LSTM, Mamba, Pythia
from lightning_modules.callbacks import DataWait
from lightning_modules.evaluation import evaluate
from lightning_modules.model import IGNORED, TrajectoryModel, masked_targets


def test_loss_is_on_what_the_model_writes():
    kinds = torch.tensor([[Kind.PROMPT, Kind.COMMAND, Kind.OBSERVATION, Kind.THOUGHT, Kind.OUTPUT, Kind.END,
                           Kind.PADDING]], dtype=torch.uint8)
    tokens = torch.arange(7)[None]
    assert masked_targets(tokens, kinds).tolist() == [[1, IGNORED, 3, 4, 5, IGNORED]]


@pytest.mark.parametrize("backbone", [Mamba, Pythia, LSTM])
def test_a_large_vocabulary_has_the_same_loss_and_gradients(backbone, monkeypatch):
    data = TrajectoryDataModule(Copy(4), batch_size=2, row_length=128)
    torch.manual_seed(0)
    model = TrajectoryModel(functools.partial(backbone, n_layer=1, d_model=16), data.vocabulary)
    batch, results = next(iter(data.val_dataloader())), []
    for limit in (1024, 1):
        monkeypatch.setattr("lightning_modules.model.LARGE_VOCABULARY", limit)
        model.zero_grad()
        loss, losses = model.losses(batch)
        loss.backward()
        results.append([loss.detach(), losses.detach(), *(p.grad.clone() for p in model.parameters())])
    assert results[0][0] > 0 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


@pytest.fixture(scope="module")
def trained():
    lightning.seed_everything(1)
    data = TrajectoryDataModule(Copy(4), batch_size=16, row_length=128)
    backbone = functools.partial(Mamba, n_layer=2, d_model=32, dt_min=0.1, dt_max=1.0)
    model = TrajectoryModel(backbone, data.vocabulary, data.task_name, learning_rate=2e-2)
    trainer = lightning.Trainer(max_steps=150, accelerator="cpu", logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
                                gradient_clip_val=1.0, use_distributed_sampler=False)
    trainer.fit(model, datamodule=data)
    return model, data


def test_a_tiny_model_learns_and_rolls_out_far_beyond_its_training(trained):
    model, data = trained
    rolled, = evaluate(model, data, [40], lambda length: 16, "rollout", "test")
    assert rolled["answer_accuracy"] >= 0.9
    assert rolled["exact_match"] <= rolled["answer_accuracy"]


def test_verify_decides_what_rollout_decides(trained):
    model, data = trained
    with torch.no_grad():  # wrong here and there, not everywhere
        model.backbone.lm_head.weight += 0.1 * model.backbone.lm_head.weight.std() * torch.randn(
            model.backbone.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    for length in (2, 5, 20, 60):
        rolled, verified = (next(evaluate(model, data, [length], lambda n: 32, e, "test"))
                            for e in ("rollout", "verify"))
        assert rolled["exact_match"] == verified["exact_match"]
        assert rolled["first_error_phases"] == verified["first_error_phases"]


def test_tokens_a_second_are_logged_between_validations_and_leave_them_out():
    class Slow(lightning.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            time.sleep(1.0)

    data = TrajectoryDataModule(Copy(4), batch_size=4, row_length=128, validation_rows=4)
    model = TrajectoryModel(functools.partial(LSTM, n_layer=1, d_model=8), data.vocabulary, data.task_name)
    trainer = lightning.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                                val_check_interval=1, check_val_every_n_epoch=None, log_every_n_steps=1,
                                callbacks=[Slow(), DataWait()], use_distributed_sampler=False)
    trainer.fit(model, datamodule=data)
    assert trainer.callback_metrics["train/tokens_per_second"] > 4 * 128 / 1.0
    assert 0 <= trainer.callback_metrics["train/data_wait_share"] <= 1
