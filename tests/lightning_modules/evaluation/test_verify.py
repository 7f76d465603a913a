import functools

import pytest
import torch

import length_gen.lightning_modules.evaluation.verify as verification
from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.recording import RecordedRows
from length_gen.datamodules.tasks import Addition, HanoiIterative, Multiplication
from length_gen.lightning_modules.backbones import LSTM, Mamba, Mamba2, Pythia
from length_gen.lightning_modules.evaluation.diagnostics import diagnose
from length_gen.lightning_modules.evaluation.evaluate import evaluate
from length_gen.lightning_modules.evaluation.verify import expected_tokens, verify, verify_streamed
from length_gen.lightning_modules.model import TrajectoryModel


def _setting(backbone=Mamba):
    torch.manual_seed(0)
    task = Addition(4)
    model = backbone(len(task.vocabulary()), n_layer=1, d_model=32).eval()
    return task, model, [task.problem("test", 0, n, i) for i, n in enumerate((1, 12, 5))]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backbone", [Mamba, LSTM])
def test_streamed_and_whole_verification_agree(backbone, workers):
    task, model, problems = _setting(backbone)
    whole = verify(model, task.vocabulary(), [task.record(problem) for problem in problems], chunk_size=33)
    streamed = verify_streamed(model, task, problems, task.vocabulary(), 10_000, workers)  # one chunk: all is counted
    assert streamed == whole
    chunked = verify_streamed(model, task, problems, task.vocabulary(), 19, workers)
    assert [(o.exact, o.first_error, o.phase) for o in chunked] == [(o.exact, o.first_error, o.phase) for o in whole]


def test_it_stops_when_every_row_has_erred():
    task, model, _ = _setting()
    seen = []
    outcome, = verify_streamed(model, task, [task.problem("test", 0, 200, 0)], task.vocabulary(), 64, 0, seen.append)
    assert not outcome.exact and outcome.first_error < seen[-1] < 7000


def test_a_verification_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    task, model, problems = _setting()
    expected = verify_streamed(model, task, problems, task.vocabulary(), 20, 0)
    monkeypatch.setattr(verification, "SAVE_SECONDS", -1)
    monkeypatch.setattr(verification.Verification, "all_wrong", lambda self: False)
    everything = verify_streamed(model, task, problems, task.vocabulary(), 20, 0)
    saved = tmp_path / "verify.pt"

    class Cut(Exception):
        pass

    def cut(tokens):
        if tokens >= 200:
            raise Cut

    with pytest.raises(Cut):
        verify_streamed(model, task, problems, task.vocabulary(), 20, 0, cut, saved)
    steps = []
    assert verify_streamed(model, task, problems, task.vocabulary(), 20, 0, steps.append, saved) == everything
    assert min(steps) == 200 and not saved.exists()
    assert [o.first_error for o in everything] == [o.first_error for o in expected]
    # Of another model it begins again.
    with pytest.raises(Cut):
        verify_streamed(model, task, problems, task.vocabulary(), 20, 0, cut, saved)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    steps.clear()
    verify_streamed(model, task, problems, task.vocabulary(), 20, 0, steps.append, saved)
    assert min(steps) == 20


@pytest.mark.parametrize("done", [8, 24, 28])
def test_a_verification_that_was_cut_off_stops_where_it_would_have(tmp_path, monkeypatch, done):
    task, model, problems = _setting()
    expected = verify_streamed(model, task, problems, task.vocabulary(), 4, 0)  # the longest prompt has 26 tokens
    monkeypatch.setattr(verification, "SAVE_SECONDS", -1)
    saved = tmp_path / "verify.pt"

    def cut(tokens):
        if tokens > done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_streamed(model, task, problems, task.vocabulary(), 4, 0, cut, saved)
    steps = []
    assert verify_streamed(model, task, problems, task.vocabulary(), 4, 0, steps.append, saved) == expected
    assert min(steps) == done + 4 and all(outcome.first_error for outcome in expected)


@pytest.mark.parametrize(("task", "variant", "length"), [
    (Addition(4), "", 20_000), (Multiplication(4), "n x 2", 7_000), (HanoiIterative(4), "", 9)])
def test_the_number_of_tokens_is_guessed_well(task, variant, length):
    exact = len(task.record(task.problem("validation", 0, length, 0, variant)).tokens)
    assert abs(expected_tokens(task, length, variant, 0) / exact - 1) <= 0.03


def test_an_evaluation_streams_its_long_lengths_to_the_same_records(tmp_path):
    data = TrajectoryDataModule(Addition(4), 2, row_length=256)
    torch.manual_seed(0)
    model = TrajectoryModel(functools.partial(Mamba, n_layer=1, d_model=32), data.vocabulary, data.task_name)
    model.train()

    def records(**settings):
        return list(evaluate(model.backbone, data, [5], lambda length: 3, "verify", "test", **settings))

    whole, streamed = records(), records(stream_from=5, folder=tmp_path)
    assert [r["length"] for r in streamed] == [r["length"] for r in whole]
    for a, b in zip(whole, streamed, strict=True):
        assert {k: a[k] for k in ("exact_match", "first_error", "problems", "evaluator")} == {
            k: b[k] for k in ("exact_match", "first_error", "problems", "evaluator")}
    assert model.training and not list(tmp_path.iterdir())


def test_all_of_a_pass_is_on_its_model_s_device(guarded, monkeypatch):
    """Kernels are on the current device, which need not be that of the model."""
    task, model, problems = _setting()
    entered, forward, passes = guarded("evaluation.teacher_forcing"), model.forward, []
    monkeypatch.setattr(model, "forward", lambda *a, **k: passes.append(list(entered)) or forward(*a, **k))
    verify(model, task.vocabulary(), [task.record(problem) for problem in problems], chunk_size=100)
    assert len(passes) > 1 and all(guards == [torch.device("cpu")] for guards in passes) and not entered


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("backbone", [Mamba, Mamba2, LSTM, Pythia])
def test_on_a_second_gpu_too(backbone):
    """The last of them: verified, trained for a step, and looked at, while the first is the current one."""
    task = Addition(4)
    data = TrajectoryDataModule(task, 16, row_length=256, num_workers=0)
    batch = next(iter(data.train_dataloader()))
    references = [task.record(task.problem("test", 0, n, i)) for i, n in enumerate((1, 40, 12, 300))]
    found = []
    for number in (0, torch.cuda.device_count() - 1):
        torch.manual_seed(0)
        device = torch.device("cuda", number)
        model = TrajectoryModel(functools.partial(backbone, n_layer=2, d_model=64), data.vocabulary).to(device)
        rows = {name: batch[name].to(device) for name in ("tokens", "kinds")}
        with torch.autocast("cuda", torch.bfloat16):
            loss, _ = model.losses(rows)
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        own = model.backbone.eval()
        seen = diagnose(own, data.vocabulary, RecordedRows(task, [task.problem("test", 0, 9, 0)],
                                                                 data.vocabulary, 100, workers=0), 1)
        found.append((verify(own, data.vocabulary, references), float(loss), float(norm), seen["errors"]))
    (outcomes, loss, norm, errors), (others, *numbers, others_errors) = found
    assert outcomes == others and numbers == pytest.approx([loss, norm], rel=1e-4)
    assert [error["position"] for error in errors] == [error["position"] for error in others_errors]
    assert torch.cuda.current_device() == 0
