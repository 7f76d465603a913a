import pytest
import torch

from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.settings import SETTINGS
from length_gen.datamodules.tasks import Addition, Multiplication
from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.backbones import GRU, Mamba
from length_gen.lightning_modules.backbones.decoder import StepDecoder
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.evaluation.outcome import judge
from length_gen.lightning_modules.evaluation.verify import verify


@pytest.mark.parametrize("task", [Addition(4), Multiplication(4, "paper")], ids=lambda task: task.name)
def test_verify_finds_the_first_error_of_the_rollout(task):
    torch.manual_seed(0)
    vocabulary = task.vocabulary()
    backbone = Mamba(len(vocabulary), n_layer=1, d_model=16).eval()
    problems = [task.problem("test", 0, 2 + i % 3, i, task.variants[-1]) for i in range(10)]
    references = [task.record(problem) for problem in problems]
    budgets = [(p, budget(r)) for p, r in zip(problems, references, strict=True)]
    alone = [rollout(backbone, vocabulary, task, [pair])[0] for pair in budgets]
    together = rollout(backbone, vocabulary, task, budgets, batch_size=3)  # rows are refilled
    for row, solo, check, reference in zip(together, alone, verify(backbone, vocabulary, references, chunk_size=7),
                                           references, strict=True):
        assert row.tokens == solo.tokens and row.reason in ("end", "budget", "invalid_command")
        outcome = judge(row, task, reference)
        assert outcome.exact == check.exact and outcome.first_error == check.first_error


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_reference_as_model_is_exact_and_right(setting):
    task = Multiplication(4, setting=setting)
    problem = task.parse("987x65")
    reference = task.record(problem)
    row = Rollout(problem, budget(reference), task.tool(), task.shown(problem))
    for token in reference.tokens:
        row.advance(token)
    assert row.reason == "end" and row.kinds == reference.kinds
    outcome = judge(row, task, reference)
    assert outcome.exact and outcome.answer_correct and outcome.correct_tokens == outcome.predicted_tokens


def test_nonsense_ends_with_a_reason():
    task = Addition(4)
    row = Rollout(task.parse("1+2"), 50, task.tool())
    while len(row.tokens) < 4:
        row.advance("p1.read@add")
    row.advance("p1.read@add")
    assert row.reason == "invalid_command" and "p1.init first" in row.detail and row.kinds[-1] == Kind.COMMAND
    endless = Rollout(task.parse("1+2"), 50, task.tool())
    while not endless.reason:
        endless.advance("7")
    assert endless.reason == "budget" and len(endless.tokens) == 50


@pytest.mark.parametrize("engine", ["host", "device"])
def test_all_of_a_rollout_is_on_its_model_s_device(engine, guarded, monkeypatch):
    """Streams, graphs and Triton's kernels are on the current device, which need not be that of the model."""
    task, entered, steps = Addition(4), guarded("decoding.rollout"), []
    plain = StepDecoder.__init__, StepDecoder.step
    monkeypatch.setattr(StepDecoder, "__init__", lambda *a, **k: steps.append(list(entered)) or plain[0](*a, **k))
    monkeypatch.setattr(StepDecoder, "step", lambda *a: steps.append(list(entered)) or plain[1](*a))
    backbone = GRU(len(task.vocabulary()), n_layer=1, d_model=16).eval()  # whose decoder has no step of its own
    rollout(backbone, task.vocabulary(), task, [(task.parse("1+2"), 9)], decoding=Decoding(engine))
    assert len(steps) >= 2 and all(guards == [torch.device("cpu")] for guards in steps) and not entered


@pytest.mark.parametrize("engine", ["host", "device", "draft"])
@pytest.mark.parametrize("asked", ["of the model", "of the rollout"])
def test_float64_is_computed_in_throughout(engine, asked, monkeypatch):
    task, found, step = Addition(4), set(), StepDecoder.step
    torch.manual_seed(0)
    backbone = Mamba(len(task.vocabulary()), n_layer=1, d_model=16).eval()
    decoding = Decoding(engine) if asked == "of the model" else Decoding(engine, "float64", "float64")
    monkeypatch.setattr(StepDecoder, "step", lambda *a: found.add((logits := step(*a)).dtype) or logits)
    problem = task.parse("1+2")
    rollout(backbone.double() if asked == "of the model" else backbone, task.vocabulary(), task, [(problem, 40)],
            decoding=decoding, **({"drafts": [task.record(problem).tokens]} if engine == "draft" else {}))
    assert found == {torch.float64}


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("engine", ["host", "device"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_on_a_second_gpu_too(engine, weights):
    task = Addition(4)
    torch.manual_seed(0)
    backbone = Mamba(len(task.vocabulary()), n_layer=2, d_model=64, initializer_range=0.3).eval()
    problems = [(task.problem("test", 0, 30, i), 300) for i in range(5)]
    found = [[row.tokens for row in rollout(backbone.to(f"cuda:{i}"), task.vocabulary(), task, problems,
                                            decoding=Decoding(engine, weights, weights))]
             for i in (0, torch.cuda.device_count() - 1)]
    assert found[0] == found[1] and torch.cuda.current_device() == 0
