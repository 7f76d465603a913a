import functools

import lightning
import pytest
import torch

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Copy
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones import LSTM, Mamba, Pythia, Suffix
from length_gen.lightning_modules.evaluation.evaluate import evaluate
from length_gen.lightning_modules.model import IGNORED, TrajectoryModel, masked_targets
from length_gen.lightning_modules.training.callbacks import DataWait
from length_gen.lightning_modules.training.initial_states import InitialStates
from length_gen.tools import UserError


def test_loss_is_on_what_the_model_writes():
    kinds = torch.tensor([[Kind.PROMPT, Kind.COMMAND, Kind.OBSERVATION, Kind.THOUGHT, Kind.OUTPUT, Kind.END,
                           Kind.PADDING]], dtype=torch.uint8)
    tokens = torch.arange(7)[None]
    assert masked_targets(tokens, kinds).tolist() == [[1, IGNORED, 3, 4, 5, IGNORED]]


@pytest.mark.parametrize("backbone", [Mamba, Pythia, LSTM])
def test_a_large_vocabulary_has_the_same_loss_and_gradients(backbone, monkeypatch):
    data = TrajectoryDataModule(Copy(4), batch_size=2, row_length=128, validation_rows=2)
    torch.manual_seed(0)
    model = TrajectoryModel(functools.partial(backbone, n_layer=1, d_model=16), data.vocabulary)
    batch, results = next(iter(data.val_dataloader())), []
    for limit in (1024, 1):
        monkeypatch.setattr("length_gen.lightning_modules.model.LARGE_VOCABULARY", limit)
        model.zero_grad()
        loss, losses = model.losses(batch)
        loss.backward()
        results.append([loss.detach(), losses.detach(), *(p.grad.clone() for p in model.parameters())])
    assert results[0][0] > 0 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backbone", [Mamba, LSTM])
def test_with_state_passing_a_row_goes_on_where_the_last_one_ended(backbone):
    torch.manual_seed(0)
    data = TrajectoryDataModule(Copy(4), batch_size=3, row_length=128, validation_rows=3)
    model = TrajectoryModel(functools.partial(backbone, n_layer=2, d_model=16), data.vocabulary, state_passing=1.0)
    batch = next(iter(data.val_dataloader()))
    batches = [{name: batch[name][:3, 64 * i : 64 * i + 65] for name in ("tokens", "kinds")} for i in range(2)]
    found = [model.losses(batch) for batch in batches]
    tokens = torch.cat([batch["tokens"][:, :-1] for batch in batches], 1)
    logits = model.backbone(tokens)[0][:, 64:]
    targets = masked_targets(batches[1]["tokens"], batches[1]["kinds"])
    expected = torch.nn.functional.cross_entropy(logits.mT, targets, ignore_index=IGNORED)
    assert torch.allclose(found[1][0], expected, atol=1e-5)
    assert (model.eval().losses(batches[1])[1] - found[1][1]).abs().max() > 1e-3  # only in training
    model.train().losses({name: part[:2] for name, part in batches[0].items()})  # another number of rows
    again = model.losses(batches[1])[1]  # whose third goes on where the first of the two ended
    before = torch.cat([batches[i]["tokens"][[0, 1, 0], :-1] for i in (0, 1, 0)] + [batches[1]["tokens"][:, :-1]], 1)
    passed = torch.nn.functional.cross_entropy(model.backbone(before)[0][:, 192:].mT, targets, ignore_index=IGNORED,
                                               reduction="none")
    assert torch.allclose(again, passed, atol=1e-5)
    found[1][0].backward()  # within its own batch


def test_noise_on_states_is_as_large_as_was_asked_for():
    torch.manual_seed(0)
    backbone = LSTM(7, n_layer=2, d_model=64)
    _, ends = backbone(torch.randint(7, (50, 20)))
    states = InitialStates(backbone, passing=0.5, noise=0.1)
    assert all(not part.any() for part in states.draw(50, torch.device("cpu")))
    states.keep(ends)
    for drawn, end in zip(states.draw(50, torch.device("cpu")), ends, strict=True):
        size = end.square().mean().sqrt()
        passed = (drawn - end).square().mean((1, 2)) < drawn.square().mean((1, 2))
        assert 10 < passed.sum() < 40
        noise = torch.where(passed[:, None, None], drawn - end, drawn)
        assert 0.09 * size < noise.square().mean().sqrt() < 0.11 * size
        assert not drawn.requires_grad


@pytest.mark.parametrize(("backbone", "settings", "message"), [
    (LSTM, {"state_passing": 1.5}, "state_passing 1.5 is not allowed"),
    (LSTM, {"state_noise": -1.0}, "state_noise -1.0 is not allowed"),
    (LSTM, {"state_noise": float("nan")}, "state_noise nan is not allowed"),
    (Pythia, {"state_passing": 0.5}, "not allowed with pythia 1x16"),
    (Suffix, {"state_passing": 0.5}, "not allowed with suffix"),
])
def test_states_are_passed_only_where_that_makes_sense(backbone, settings, message):
    sizes = {} if backbone is Suffix else {"n_layer": 1, "d_model": 16}
    with pytest.raises(UserError, match=message):
        TrajectoryModel(functools.partial(backbone, **sizes), Vocabulary(["a", "b"]), **settings)


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
    rolled, = evaluate(model.backbone, data, [40], lambda length: 16, "rollout", "test")
    assert rolled["answer_accuracy"] >= 0.9
    assert rolled["exact_match"] <= rolled["answer_accuracy"]


def test_verify_decides_what_rollout_decides(trained):
    model, data = trained
    with torch.no_grad():  # wrong here and there, not everywhere
        model.backbone.lm_head.weight += 0.1 * model.backbone.lm_head.weight.std() * torch.randn(
            model.backbone.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    for length in (2, 5, 20, 60):
        rolled, verified = (next(evaluate(model.backbone, data, [length], lambda n: 32, e, "test"))
                            for e in ("rollout", "verify"))
        assert rolled["exact_match"] == verified["exact_match"]
        assert rolled["first_error_phases"] == verified["first_error_phases"]


def test_tokens_a_second_are_logged_between_validations_and_leave_them_out(clock):
    sizes = []

    class Slow(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            clock.wait(0.5)
            sizes.append(batch["kinds"][:, 1:].numel())

        def on_validation_epoch_end(self, trainer, pl_module):
            clock.wait(1000)

    data = TrajectoryDataModule(Copy(4), batch_size=4, row_length=128, validation_rows=4)
    model = TrajectoryModel(functools.partial(LSTM, n_layer=1, d_model=8), data.vocabulary, data.task_name)
    trainer = lightning.Trainer(max_steps=4, accelerator="cpu", logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                                val_check_interval=1, check_val_every_n_epoch=None, log_every_n_steps=1,
                                callbacks=[Slow(), DataWait()], use_distributed_sampler=False)
    trainer.fit(model, datamodule=data)
    assert len(sizes) == 4 and trainer.callback_metrics["train/tokens_per_second"] == sizes[-1] / 0.5
    assert trainer.callback_metrics["train/data_wait_share"] == 0


def test_a_backbone_whose_weights_are_all_frozen_is_refused_in_one_line():
    data = TrajectoryDataModule(Copy(4), batch_size=4, row_length=128)
    model = TrajectoryModel(functools.partial(LSTM, n_layer=1, d_model=8), data.vocabulary, data.task_name)
    model.backbone.requires_grad_(False)
    with pytest.raises(UserError, match="lstm 1x8 has no weights that can be trained: all are frozen"):
        model.configure_optimizers()
