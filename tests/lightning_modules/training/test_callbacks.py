import os
import time

import lightning
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from length_gen.datamodules.datamodule import TimedLoader
from length_gen.datamodules.tasks import CodeFixing
from length_gen.lightning_modules.provenance import CHECKPOINT, PREVIOUS
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from length_gen.lightning_modules.runs.folders import newest_checkpoint
from length_gen.lightning_modules.training.callbacks import DataWait, LengthGeneralization
from length_gen.lightning_modules.training.callbacks.last_checkpoint import replace
from length_gen.tools import UserError


def save(path, step):
    path.parent.mkdir(exist_ok=True)
    torch.save({"state_dict": {}, "global_step": step}, path)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_whole_checkpoint_is_found_wherever_the_replacement_is_cut_off(tmp_path, monkeypatch, links, calls):
    """Power fails after so many of the file system's operations; the partial file may be torn."""
    last = tmp_path / CHECKPOINT
    save(last, 1)
    save(last.with_suffix(".partial"), 2)
    done, rename = [], os.replace

    def limited(*paths):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(paths)
        rename(*paths)

    def no_link(*paths):
        raise OSError("not supported")

    monkeypatch.setattr(os, "replace", limited)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    if calls < 2:
        with pytest.raises(KeyboardInterrupt):
            replace(last.with_suffix(".partial"), last, keep=True)
    else:
        replace(last.with_suffix(".partial"), last, keep=True)
    assert load_checkpoint(newest_checkpoint(tmp_path))["global_step"] == (2 if calls == 2 else 1)
    assert calls == 0 or load_checkpoint(tmp_path / PREVIOUS)["global_step"] == 1


def test_a_torn_checkpoint_never_takes_the_place_of_the_one_before(tmp_path):
    last = tmp_path / CHECKPOINT
    save(tmp_path / PREVIOUS, 1)
    last.write_bytes(b"torn")
    save(last.with_suffix(".partial"), 2)
    replace(last.with_suffix(".partial"), last, keep=False)
    assert [load_checkpoint(tmp_path / name)["global_step"] for name in (CHECKPOINT, PREVIOUS)] == [2, 1]
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(UserError, match="is not a whole checkpoint"):
        newest_checkpoint(tmp_path)


def test_lengths_that_are_verified_only_need_trajectories_recorded_token_by_token():
    class Other:
        name, streamed = "code_fixing", CodeFixing.streamed

        def check_length(self, length):
            pass

    with pytest.raises(UserError, match=r"verify_lengths \[64\] are not possible: the trajectories of code_fixing are"):
        LengthGeneralization([16], verify_lengths=[64]).check_task(Other())
    LengthGeneralization([16]).check_task(Other())


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
