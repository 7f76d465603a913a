import os
from types import SimpleNamespace

import pytest
import torch

from length_gen.lightning_modules.provenance import CHECKPOINT, PREVIOUS
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from length_gen.lightning_modules.runs.folders import newest_checkpoint
from length_gen.lightning_modules.training.callbacks.last_checkpoint import LastCheckpoint, replace
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


@pytest.mark.parametrize(("error", "raised", "message"), [
    (RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"), RuntimeError, "gloo"),
    (RuntimeError("[enforce fail at inline_container.cc:595] . unexpected pos"), UserError, "make room"),
    (OSError(28, "No space left on device"), UserError, "make room")])
def test_a_process_that_was_lost_while_saving_is_not_a_full_disk(tmp_path, error, raised, message):
    def fail(*arguments, **settings):
        raise error

    trainer = SimpleNamespace(save_checkpoint=fail, log_dir=str(tmp_path), global_step=3, default_root_dir="")
    with pytest.raises(raised, match=message):
        LastCheckpoint()._save(trainer)
