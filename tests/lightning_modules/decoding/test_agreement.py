"""A backbone is one model: what it trains, verifies and rolls out is the same, or it is refused at the start."""

import copy
import functools
import itertools
import json

import lightning
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Addition, Copy, LogicalGraph
from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.backbones import (
    GRU,
    LSTM,
    XLSTM,
    GatedDeltaNet,
    HuggingFace,
    Hybrid,
    Mamba,
    Mamba2,
    Mamba3,
    Mistral,
    Pretrained,
    Pythia,
    Suffix,
)
from length_gen.lightning_modules.backbones.decoder import StepDecoder
from length_gen.lightning_modules.backbones.layered import Block
from length_gen.lightning_modules.backbones.mamba import Mixer
from length_gen.lightning_modules.backbones.pretrained import export
from length_gen.lightning_modules.decoding.agreement import MOST_TOKENS, _tokens, check_agreement
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.training.callbacks import LengthGeneralization, length_generalization
from length_gen.tools import UserError
from tests.lightning_modules.backbones.test_xlstm import open_gates

SIZES = {"n_layer": 2, "d_model": 32, "initializer_range": 0.3}
SHIPPED = {
    "mamba": functools.partial(Mamba, **SIZES), "floored": functools.partial(Mamba, **SIZES, dt_floor=1.0),
    "tapped": functools.partial(Mamba, **SIZES, dt_floor=1.0, taps=[3, 1]),
    "mamba2": functools.partial(Mamba2, **SIZES),
    "tapped mamba2": functools.partial(Mamba2, **SIZES, dt_floor=1.0, taps=[3, 1]),
    "mamba3": functools.partial(Mamba3, **SIZES), "delta": functools.partial(GatedDeltaNet, **SIZES),
    "negative delta": functools.partial(GatedDeltaNet, **SIZES, allow_neg_eigval=True),
    "xlstm": lambda size: open_gates(XLSTM(size, n_layer=2, d_model=32)),
    "lstm": functools.partial(LSTM, n_layer=2, d_model=32),
    "gru": functools.partial(GRU, n_layer=2, d_model=32), "pythia": functools.partial(Pythia, **SIZES, n_head=4),
    "mistral": functools.partial(Mistral, **SIZES, n_head=4, window=16),
    "hybrid": functools.partial(Hybrid, **SIZES, n_head=4), "suffix": Suffix,
    "gpt2": functools.partial(HuggingFace, config={"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4}),
}


@pytest.mark.parametrize("kind", SHIPPED)
@pytest.mark.parametrize("task", [Addition(5), pytest.param(LogicalGraph(4), marks=pytest.mark.slow)],
                         ids=["addition", "logical_graph"])
def test_every_backbone_is_one_model_and_is_left_as_it_was(kind, task):
    torch.manual_seed(0)
    backbone = SHIPPED[kind](len(task.vocabulary()))
    for part in list(backbone.children())[-1:]:  # one that does not follow the others
        part.eval()
    before, state = [part.training for part in backbone.modules()], torch.get_rng_state()
    weights = [weight.clone() for weight in backbone.state_dict().values()]
    for decoding in (Decoding(), Decoding(weights="bfloat16", states="bfloat16")):
        check_agreement(backbone, task, task.vocabulary(), decoding, 64,
                        functools.partial(torch.autocast, "cpu", torch.bfloat16))
    assert [part.training for part in backbone.modules()] == before and any(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, backbone.state_dict().values(), weights))


def test_pretrained_ones_too(tmp_path):
    task = Copy(5)
    export(Mamba(len(task.vocabulary())), tmp_path / "start", task.vocabulary().tokens)
    tuned = Pretrained(len(task.vocabulary()), str(tmp_path / "start"), lora_rank=2)
    nn.init.normal_(tuned.model.backbone["layers"][0].mixer.in_proj.parametrizations.weight[0].B)
    check_agreement(tuned, task, task.vocabulary())


def test_a_long_trajectory_is_taken_around_its_longest_observation():
    task = LogicalGraph(10)
    row, other = _tokens(task, task.vocabulary()).tolist()
    assert len(row) == MOST_TOKENS and other == row[MOST_TOKENS // 2 :] + row[: MOST_TOKENS // 2]
    longest = task.record(task.longest_problem())
    whole = task.vocabulary().encode(longest.tokens).tolist()
    start, = (i for i in range(len(whole)) if whole[i : i + MOST_TOKENS] == row)
    runs = [len(list(run)) for kind, run in itertools.groupby(longest.kinds) if kind == Kind.OBSERVATION]
    inside = longest.kinds[start : start + MOST_TOKENS]
    found = [len(list(run)) for kind, run in itertools.groupby(inside) if kind == Kind.OBSERVATION]
    assert len(whole) > 2 * MOST_TOKENS and max(runs) == max(found) > 10


class HalvedSteps(Mixer):
    """Overrides a part that the block's own step does not call."""

    def _selection(self, x):
        delta, B, C = super()._selection(x)
        return 0.5 * delta, B, C


class LoudBlock(Block):
    """Changes what is trained, and not a step."""

    def forward(self, hidden, state=None):
        hidden, state = super().forward(hidden, state)
        return 1.5 * hidden, state


class LoudMamba(Mamba):
    """Changes all logits of a pass, and not of a step."""

    def forward(self, tokens, state=None, return_state=True):
        logits, state = super().forward(tokens, state, return_state)
        return 1.01 * logits, state


class CoarseDecoder(Mamba):
    """Whose decoder in bfloat16 is of other weights."""

    def decoder(self, rows, length, weights=torch.float32, states=torch.float32):
        other = self if weights == torch.float32 else copy.deepcopy(self)
        if other is not self:
            nn.init.normal_(other.backbone["layers"][1].mixer.out_proj.weight)
        return StepDecoder(other, rows, length)


class OtherResets(StepDecoder):
    """Whose rows are reset all or none, whichever are asked for."""

    every = True

    def reset(self, rows):
        everyone = torch.arange(len(tree_leaves(self.state)[0]))
        if self.every or len(rows) == len(everyone):
            super().reset(everyone)


class ResetsAll(Mamba):
    def decoder(self, rows, length, weights=torch.float32, states=torch.float32):
        return OtherResets(self, rows, length)


class ResetsNone(Mamba):
    def decoder(self, rows, length, weights=torch.float32, states=torch.float32):
        decoder = OtherResets(self, rows, length)
        decoder.every = False
        return decoder


class Shifted(Mamba):
    """With a bias, 0 at first, that a step leaves out."""

    def __init__(self, vocab_size, **settings):
        super().__init__(vocab_size, **settings)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens, state=None, return_state=True):
        logits, state = super().forward(tokens, state, return_state)
        return logits + self.bias, state


def changed(vocab_size, mixer=Mixer, block=Block):
    """A Mamba whose blocks are of other classes, with the same weights."""
    torch.manual_seed(0)
    net = Mamba(vocab_size, **SIZES, dt_min=0.1, dt_max=1.0)
    for layer in net.backbone["layers"]:
        layer.__class__, layer.mixer.__class__ = block, mixer
    return net


def fit(backbone, task):
    data = TrajectoryDataModule(task, batch_size=2, row_length=512)
    model = TrajectoryModel(backbone, data.vocabulary, data.task_name)
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                                enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
                                use_distributed_sampler=False, callbacks=[LengthGeneralization([2], problems=1)])
    trainer.fit(model, datamodule=data)
    return trainer


def test_a_block_that_changes_training_alone_is_refused_at_the_start_of_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"mamba 2x32 is not one model: .* the logits of step differ from those of "
                                        r"forward at once by up to \d") as error:
        fit(functools.partial(changed, block=LoudBlock), Addition(5))
    assert "\n" not in str(error.value)


def test_what_differs_once_it_is_trained_is_said_at_the_end_of_fit(tmp_path, monkeypatch):
    """And in its results; a command that loads it is refused."""
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="the logits of step differ"):
        trainer = fit(functools.partial(Shifted, n_layer=1, d_model=32), Addition(5))
    assert "the logits of step differ" in json.loads((tmp_path / "metrics.json").read_text())["disagreement"]
    with pytest.raises(UserError, match="the logits of step differ"):
        trainer.test(trainer.model, datamodule=trainer.datamodule)
    task = Addition(5)
    check_agreement(Shifted(len(task.vocabulary()), n_layer=1, d_model=32), task, task.vocabulary())


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_training_is_bitwise_what_it_is_without_the_check(kind, tmp_path, monkeypatch):
    """GPT-2 has dropout, which draws random numbers."""
    monkeypatch.chdir(tmp_path)
    found = []
    for check in (check_agreement, lambda *parts: None):
        monkeypatch.setattr(length_generalization, "check_agreement", check)
        lightning.seed_everything(1, verbose=False)
        found.append(fit(SHIPPED[kind], Copy(4)).model.state_dict())
    assert all(map(torch.equal, *(state.values() for state in found)))


@pytest.mark.parametrize(("net", "decoding", "way"), [
    (LoudMamba, Decoding(), "of step differ"), (ResetsAll, Decoding(), "of decoder"),
    (ResetsNone, Decoding(), "of decoder"),
    (CoarseDecoder, Decoding(weights="bfloat16"), r"of decoder \(weights bfloat16, states float32\) differ")])
def test_any_way_that_is_another_model_is_named(net, decoding, way):
    task = Addition(5)
    torch.manual_seed(0)
    backbone = net(len(task.vocabulary()), **SIZES)
    with pytest.raises(UserError, match=way):
        check_agreement(backbone, task, task.vocabulary(), decoding)
    if net is CoarseDecoder:
        check_agreement(backbone, task, task.vocabulary())


def test_what_a_subclass_changes_is_in_every_way_through_the_model():
    task = Addition(5)
    plain, net = changed(len(task.vocabulary())), changed(len(task.vocabulary()), HalvedSteps)
    check_agreement(net, task, task.vocabulary())
    tokens = _tokens(task, task.vocabulary())
    assert (net(tokens)[0] - plain(tokens)[0]).abs().max() > 0.01
    loud = LoudMamba(len(task.vocabulary()), **SIZES)
    logits, state = loud(tokens)
    chosen = torch.rand(tokens.shape) < 0.3
    assert torch.allclose(loud.logits_at(tokens, chosen), logits[chosen])
    assert all(map(torch.equal, tree_leaves(loud.prefill(tokens, loud.initial_state(2))), tree_leaves(state)))
    # Kernels that read the weights are for what the weights alone tell.
    assert plain.is_plain() and not loud.is_plain() and not net.is_plain()
    plain.backbone["layers"][1].mixer.in_proj.register_forward_hook(lambda *parts: None)
    assert not plain.is_plain()


def test_a_model_that_has_diverged_is_not_held_to_it():
    task = Copy(3)
    backbone = Mamba(len(task.vocabulary()))
    nn.init.constant_(backbone.lm_head.weight, float("nan"))
    check_agreement(backbone, task, task.vocabulary())


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@CUDA
@pytest.mark.parametrize("kind", SHIPPED)
@pytest.mark.parametrize("rows", [2, 64, 300])
def test_on_a_gpu_every_backbone_is_one_model(kind, rows):
    torch.manual_seed(0)
    task = LogicalGraph(10)
    backbone = SHIPPED[kind](len(task.vocabulary())).cuda()
    for weights, states in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")):
        check_agreement(backbone, task, task.vocabulary(), Decoding("device", weights, states), rows,
                        functools.partial(torch.autocast, "cuda", torch.bfloat16))


@CUDA
@pytest.mark.parametrize("kind", [Mamba, Mamba2])  # mamba-ssm's kernels for Mamba-2 multiply float32 in TF32
@pytest.mark.parametrize("rows", [2, 64, 1024])
def test_on_a_gpu_a_mamba_of_the_paper_s_size_is_one_model(kind, rows):
    torch.manual_seed(0)
    task = Addition(5)
    backbone = kind(len(task.vocabulary()), n_layer=24, d_model=768).cuda()
    for weights, states in (("float32", "float32"), ("bfloat16", "bfloat16")):
        check_agreement(backbone, task, task.vocabulary(), Decoding("device", weights, states), rows,
                        functools.partial(torch.autocast, "cuda", torch.bfloat16))


@CUDA
def test_on_a_gpu_a_changed_block_computes_what_it_does_on_the_cpu():
    task = Addition(5)
    net, tokens = changed(len(task.vocabulary()), HalvedSteps), _tokens(task, task.vocabulary())
    with torch.no_grad():
        expected = net(tokens, return_state=False)[0]
        found = net.cuda()(tokens.cuda(), return_state=False)[0].cpu()
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    check_agreement(net, task, task.vocabulary(), Decoding("device"), 8)
