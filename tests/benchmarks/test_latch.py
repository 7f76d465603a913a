"""Where a Mamba holds the phase: what fades fades by its own rate, and what is read is what is due."""

from pathlib import Path

import pytest
import torch

from benchmarks.latch import LAST, Walk, lost, measure
from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.backbones import LSTM, Mamba
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.runs.load import Run


def run(backbone=Mamba, style="paper"):
    data = TrajectoryDataModule(Addition(5, style=style))
    torch.manual_seed(0)
    return Run(Path("none"), backbone(len(data.vocabulary), n_layer=2, d_model=16).eval(), data, Decoding())


@torch.inference_mode()
def test_the_two_walks_read_the_same_and_their_first_layers_difference_fades_by_its_rates():
    short, long = (Walk(run(), n, 0) for n in (20, 40))
    assert short.last.shape == (1, LAST)
    said = [str(token) for token in short.run.vocabulary.decode(short.last[0])]
    assert said == ["p2.right", "p2.read", said[2], "p2.right", "p2.read", said[5], "p2.right", "p2.read", "="]
    tokens = short.run.task.record(short.run.task.parse("12345+67891=")).tokens
    _, equals, answer, _ = (place for place, token in enumerate(tokens) if token == "=")  # first and last: as they are
    assert tokens[equals - 15: equals + 1] == tokens[answer - 15: answer + 1]
    mixer = short.run.backbone.parts[1][0].mixer
    # By the recurrence itself: both read the walk from the states at its beginning, four tokens in.
    ids = torch.randint(3, 10, (1, 60))
    first, second = (short.run.backbone(torch.cat([torch.full((1, 9), start), ids[:, :4]], 1))[1] for start in (11, 12))
    ended = [short.run.backbone(ids[:, 4:], state)[1][0][1] for state in (first, second)]
    hidden = short.run.backbone.parts[1][0].norm(short.run.backbone.parts[0](ids))
    rates = mixer.step_sizes(hidden)[0, 4:].mean(0)[:, None] * mixer.A_log.exp()
    expected = (first[0][1] - second[0][1]) * torch.exp(-rates * 56)
    assert torch.allclose(ended[0] - ended[1], expected, atol=1e-6)
    assert [rate.shape for rate in long.rates] == [(32, 16)] * 2


@torch.inference_mode()
def test_what_has_not_faded_is_the_answer_s_and_what_has_is_the_other_s():
    walk = Walk(run(), 12, 1)
    inputs = [(other[0], own[1]) for own, other in zip(walk.answer, walk.equals, strict=True)]
    assert walk.margin(walk.faded("answer", 0)) == pytest.approx(walk.margin(inputs), abs=1e-5)
    assert walk.margin(walk.faded("answer", 10**7)) == pytest.approx(walk.margin(walk.equals), abs=1e-5)
    assert walk.margin(walk.faded("equals", 10**7)) == pytest.approx(walk.margin(walk.answer), abs=1e-5)
    assert walk.margin(walk.slower(0)) == pytest.approx(walk.margin(inputs), abs=1e-5)
    assert walk.margin(walk.slower(10**7)) == pytest.approx(walk.margin(walk.equals), abs=1e-5)


def test_a_row_of_the_table_by_hand():
    assert lost({5: 1.0, 10: -0.1, 20: 2.0, 50: -3.0}) == 10 and lost({5: 1.0}) is None
    row = measure(run(), short=6, digits=[5, 8], problems=1)
    walk = Walk(run(), 8, 0)
    assert row["answer margins"][8] == pytest.approx(walk.margin(walk.answer), abs=1e-5)
    assert row["equals margins"][8] == pytest.approx(-walk.margin(walk.equals), abs=1e-5)
    assert set(row["equals margins foretold"]) == {8} and len(row["slowest"]) == 2
    with pytest.raises(SystemExit, match="2 digits are too few: expected 3 or more"):
        measure(run(), short=6, digits=[2], problems=1)
    for other in (run(LSTM), run(style="local")):
        with pytest.raises(SystemExit, match="expected a Mamba that adds in style paper"):
            measure(other, short=6, digits=[8], problems=1)
