import pickle
import random
import zipfile

import pytest
import torch

from length_gen.lightning_modules.runs.checkpoints import check_content, load_checkpoint
from length_gen.tools import UserError


class Code:
    def __reduce__(self):
        return print, ("code in a checkpoint was run",)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.randn(100, 100)}, "task": "addition"}, path)
    return path


def test_a_checkpoint_cut_anywhere_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    for percent in range(100):
        checkpoint.write_bytes(content[: len(content) * percent // 100])
        with pytest.raises(UserError, match="is not a whole checkpoint"):
            load_checkpoint(checkpoint)


def test_no_flipped_bit_goes_unnoticed(checkpoint):
    content, rng = checkpoint.read_bytes(), random.Random(0)
    whole = load_checkpoint(checkpoint)["state_dict"]["weight"]
    refused = 0
    for _ in range(300):
        flipped, place = bytearray(content), rng.randrange(len(content))
        flipped[place] ^= 1 << rng.randrange(8)
        checkpoint.write_bytes(flipped)
        try:
            assert torch.equal(load_checkpoint(checkpoint)["state_dict"]["weight"], whole)  # in what nobody reads
        except UserError:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize("save", [lambda content, path: torch.save(content, path),
                                  lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_is_never_run(tmp_path, capsys, save):
    path = tmp_path / "last.ckpt"
    save({"state_dict": {}, "callbacks": Code()}, path)
    with pytest.raises(UserError, match="is not a whole checkpoint"):
        load_checkpoint(path)
    assert "was run" not in capsys.readouterr().out


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(checkpoint):
    with zipfile.ZipFile(checkpoint) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="is not a whole checkpoint"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(("content", "words"), [
    ([1, 2], "holds no state_dict"), ({"state_dict": []}, "holds no state_dict"),
    ({"state_dict": {}}, "holds no pytorch-lightning_version"),
    ({"state_dict": {}, "pytorch-lightning_version": "2", "task": "add", "vocabulary": "ab"}, "holds no vocabulary"),
    ({"state_dict": {"a": [1]}, "pytorch-lightning_version": "2", "task": "add", "vocabulary": []}, "than tensors")])
def test_another_file_is_named(content, words, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match=words):
        check_content("other.pt", load_checkpoint(tmp_path / "other.pt"))
