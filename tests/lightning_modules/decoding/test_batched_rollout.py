import functools
import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Addition, Copy, LogicalGraph, Multiplication, Turing
from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.backbones import (
    GRU,
    LSTM,
    XLSTM,
    GatedDeltaNet,
    Hybrid,
    Mamba,
    Mamba2,
    Mamba3,
    Mistral,
    Pythia,
    scan_cuda,
)
from length_gen.lightning_modules.backbones.decoder import StepDecoder
from length_gen.lightning_modules.decoding import batched_rollout, prefill
from length_gen.lightning_modules.decoding.batched_rollout import Rows
from length_gen.lightning_modules.decoding.prefill import PrefillPlan
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.sampling import drawn_from, gumbel
from length_gen.lightning_modules.decoding.settings import TYPES, Decoding
from length_gen.lightning_modules.evaluation.solve import solve
from length_gen.tools import UserError

TASKS = [Addition(4), Addition(4, "paper"), Multiplication(3), Copy(4), Turing("increment", 4), Turing("palindrome", 4),
         Addition(4, setting="question_in_tool"), Turing("palindrome", 4, setting="question_in_tool")]


def _setting(task, backbone=Mamba, problems=9, **shape):
    torch.manual_seed(1)
    backbone = backbone(len(task.vocabulary()), n_layer=1, d_model=32, **shape).eval()
    chosen = [task.problem("test", 0, 2 + i % 3, i, task.variants[-1]) for i in range(problems)]
    return backbone, [(problem, budget(task.record(problem))) for problem in chosen]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Rows are read from the log while they go on, also where they are short."""
    monkeypatch.setattr(batched_rollout, "PIECE", 3)
    monkeypatch.setattr(batched_rollout, "PIECES", 2)


def _train(backbone, task, problems, steps=40):
    """Until it writes some of the trajectories, so that rows go far and end in several ways."""
    optimizer = torch.optim.Adam(backbone.parameters(), 1e-2)
    rows = [torch.from_numpy(task.vocabulary().encode(task.record(problem).tokens)) for problem, _ in problems]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    for _ in range(steps):
        logits, _ = backbone(padded[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), padded[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.style}-{task.setting}")
@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
def test_the_device_engine_says_what_the_host_engine_says(task, trained):
    backbone, problems = _setting(task)
    if trained:
        _train(backbone, task, problems)
    host = rollout(backbone, task.vocabulary(), task, problems, 4, Decoding("host"))
    device = rollout(backbone, task.vocabulary(), task, problems, 4, Decoding("device"))
    for a, b in zip(host, device, strict=True):
        assert (a.tokens, a.kinds, a.reason, a.detail) == (b.tokens, b.kinds, b.reason, b.detail)
    if trained and task.name in ("copy", "turing_increment"):
        assert any(row.reason == "end" for row in host)


@pytest.mark.parametrize("most", [60, 10**6])
def test_prompts_of_any_lengths_are_taken_in_passes(most, monkeypatch):
    task, made = Addition(4), []
    backbone, _ = _setting(task)
    chosen = [task.problem("test", 0, digits, 0) for digits in (40, 2, 3, 22, 9, 21, 1, 30, 14)]
    problems = [(problem, limit) for problem, limit in zip(chosen, (200, 9, 60, 1, 80, 30, 70, 150, 2), strict=True)]
    monkeypatch.setattr(prefill, "MOST_TOKENS", {"cpu": most})
    plain = StepDecoder.prefill
    monkeypatch.setattr(StepDecoder, "prefill", lambda *a: made.append(a[2].shape) or plain(*a))
    found = rollout(backbone, task.vocabulary(), task, problems, 9, Decoding("device"))
    assert made and all(rows * length <= most for rows, length in made)
    monkeypatch.setattr(StepDecoder, "prefills", False)
    stepped = rollout(backbone, task.vocabulary(), task, problems, 9, Decoding("device"))
    for a, b in zip(found, stepped, strict=True):
        assert (a.tokens, a.kinds, a.reason) == (b.tokens, b.kinds, b.reason)


@pytest.mark.parametrize("price", [2, 16])
def test_passes_take_what_is_known_once_and_save_more_than_they_cost(price):
    plan, all_taken = PrefillPlan(_setting(Addition(4))[0], 50, price), 0
    for known, most, rows in (([5, 90, 0, 91, 300], 64, 9), ([7] * 40, 50, 3), ([0, 0], 9, 9), ([], 9, 9), ([3], 1, 9),
                              ([300] * 4, 10**6, 9), ([401] * 9, 1000, 9), ([401] * 9, 10**6, 2)):
        plan.most, plan.rows = most, rows
        taken, passes = [0] * len(known), list(plan.passes(known, 2))
        for chosen, length in passes:
            assert len(chosen) * length <= most and len(chosen) <= rows
            for i in chosen:
                taken[i] += length
        assert all(a <= b for a, b in zip(taken, known, strict=True))
        assert sum(taken) >= len(passes) * price * 2
        assert price == 2 or all(length % 16 == 0 for _, length in passes if length >= 256)
        all_taken += sum(taken)
    assert all_taken > 5000 and not list(plan.passes([1, 1, 1], 2))


def _compare_with_steps(task, backbone, decoding, tolerance, monkeypatch):
    """What rows are that took much of their prompts in passes, and what they are after as many steps."""
    problems = [task.problem("test", 0, digits, 0) for digits in (150, 149, 40, 3, 140, 2)]
    prompts = [task.vocabulary().encode(problem.prompt) for problem in problems]
    monkeypatch.setattr(prefill, "MOST_TOKENS", dict.fromkeys(("cpu", "cuda"), 600))
    with torch.inference_mode():
        rows = Rows(backbone, task.vocabulary(), task.tool(problems[0]), len(prompts), 400, decoding)
        rows.plan.price = 2
        rows.start(range(len(prompts)), prompts, [400, 400, 400, 400, 200, 400], [0] * len(prompts))
        rows.finish()
        taken = (rows.count - 1).tolist()
        assert taken[3] == taken[5] == 0 and min(taken[i] for i in (0, 1, 2, 4)) > 64 and max(taken[:2]) > 256
        assert taken[4] == 198  # the budget's end is taken in a step
        for row, prompt in enumerate(prompts):
            assert rows.tokens[row] == prompt[taken[row]] and rows.log[row, : taken[row]].tolist() == list(
                prompt[: taken[row]])
        other = backbone.decoder(len(prompts), 400, TYPES[decoding.weights], TYPES[decoding.states])
        logits, compared = rows.decoder.step(rows.tokens).clone(), 0
        for step in range(max(taken) + 1):
            column = torch.tensor([prompt[min(step, len(prompt) - 1)] for prompt in prompts], device=logits.device)
            expected = other.step(column)
            for row in (row for row, count in enumerate(taken) if count == step):
                leaves = [[leaf[row] if leaf.shape[0] == len(prompts) else leaf[:, row]
                           for leaf in tree_leaves(decoder.state)] for decoder in (rows.decoder, other)]
                for a, b in ((logits[row], expected[row]), *zip(*leaves, strict=True)):
                    assert (a - b).norm() <= tolerance * b.norm()
                compared += 1
        assert compared == len(prompts)


@pytest.mark.parametrize("backbone", [GRU, GatedDeltaNet, LSTM, Mamba, Mamba2, Mamba3, XLSTM])
def test_after_passes_rows_are_where_steps_lead(backbone, monkeypatch):
    task = Addition(4)
    _compare_with_steps(task, _setting(task, backbone)[0], Decoding(), 1e-4, monkeypatch)


def test_a_prompt_beyond_every_budget_ends_there():
    task = Addition(4)
    backbone, _ = _setting(task)
    problems = [(task.problem("test", 0, digits, 0), 10) for digits in (40, 30)]
    found = rollout(backbone, task.vocabulary(), task, problems, 2, Decoding("device"))
    assert [(row.tokens, row.reason) for row in found] == [(list(p.prompt[:10]), "budget") for p, _ in problems]


@pytest.mark.parametrize("task", [Copy(4, setting="question_in_tool"), Turing("increment", 4,
                                                                              setting="question_in_tool")])
def test_a_question_that_is_longer_than_a_row_stays_in_the_tool(task):
    """Rows end by their budget long before what the tool has does; one reads all of its question."""
    backbone, problems = _setting(task)
    _train(backbone, task, problems)
    long = [(task.problem("test", 0, length, 0), limit) for length, limit in ((90, 12), (1, 30), (200, 25))]
    host, device = (rollout(backbone, task.vocabulary(), task, long, 2, Decoding(engine))
                    for engine in ("host", "device"))
    for a, b, (problem, limit) in zip(host, device, long, strict=True):
        reference = task.record(problem)
        count = min(limit, len(reference.tokens))
        assert a.tokens == b.tokens == reference.tokens[:count] and a.kinds == b.kinds == reference.kinds[:count]
        assert a.kinds.count(Kind.PROMPT) == 1
    short = problems[0][0]
    solved, = solve(backbone, task.vocabulary(), task, ["".join(short.prompt)])
    assert solved.right and solved.exact and solved.outputs == task.answer(short)
    assert solved.tokens[0] == short.prompt[-1] and solved.kinds.count(Kind.PROMPT) == 1


@pytest.mark.parametrize("backbone", [LSTM, Pythia])
def test_other_backbones_too(backbone):
    task = Addition(4)
    model, problems = _setting(task, backbone, problems=5)
    host, device = (rollout(model, task.vocabulary(), task, problems, 2, Decoding(engine))
                    for engine in ("host", "device"))
    assert [row.tokens for row in host] == [row.tokens for row in device]


def test_draws_depend_on_the_seed_and_the_problem_alone():
    task = Addition(4)
    backbone, problems = _setting(task)
    together, alone, other = (
        [row.tokens for row in rollout(backbone, task.vocabulary(), task, problems, size,
                                       Decoding(temperature=1.0, seed=s))]
        for size, s in ((9, 0), (3, 0), (9, 1)))
    assert together == alone != other
    assert len(set(map(tuple, together))) == len(together)


def test_draws_have_the_softmax_s_frequencies():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    share = torch.zeros(4)
    for seed in range(20):
        scores = drawn_from(2 * logits.expand(1000, 4), 2.0, torch.full((1000,), seed), torch.arange(1000))
        share += torch.bincount(scores.argmax(-1), minlength=4) / 20_000
    assert torch.allclose(share, logits.softmax(-1), atol=0.015)


LARGEST = [(2_907_763, 6), (224_544, 11)]


def _mixed(x):
    x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
    x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
    return x ^ (x >> 16)


def test_noise_is_finite_and_exact_where_it_is_large():
    """At these places of a row of seed 0 the hash is among the largest and the smallest."""
    for count, token in (*LARGEST, (4_150_823, 9), (2_568_701, 15), (17, 3), (18, 5)):
        key = _mixed(count ^ _mixed(0))
        hashed = _mixed(_mixed(token ^ key) ^ _mixed(key ^ 0x9E3779B9))
        noise = gumbel(torch.zeros(1, dtype=torch.long), torch.tensor([count]), 16)
        assert noise.isfinite().all()
        # A small number can only lose, so that it need not be exact.
        exact = max(-2.8, -math.log(-math.log1p(-(hashed + 0.5) / 2**32)))
        assert noise[0, token].item() == pytest.approx(exact, abs=0.02 if exact == -2.8 else 1e-5), (count, token)


def test_a_token_of_probability_0_is_not_drawn_even_where_the_noise_is_largest():
    seeds, counts = torch.zeros(4, dtype=torch.long), torch.tensor([4_150_823, 2_568_701, *(n for n, _ in LARGEST)])
    for impossible in (-math.inf, -110.0):
        logits = torch.full((4, 16), impossible)
        logits[:, 4] = 0
        assert drawn_from(logits, 1.0, seeds, counts).argmax(-1).tolist() == [4] * 4
    steep = torch.tensor([[-1e30, 5.0, 1e30, 0.0]]).expand(4, 4)  # at a low temperature only the largest is possible
    assert drawn_from(steep, 1e-30, seeds, counts).argmax(-1).tolist() == [2] * 4


def test_what_cannot_be_decoded_is_told():
    task = LogicalGraph(4)
    backbone, _ = _setting(Addition(4))
    with pytest.raises(UserError, match="engine device has no SearchMemory"):
        rollout(backbone, task.vocabulary(), task, [(task.problem("test", 0, 4, 0, task.variants[0]), 50)], 1,
                Decoding("device"))
    for wrong, message in (({"engine": "gpu"}, "unknown engine 'gpu'"), ({"weights": "int8"}, "unknown type 'int8'"),
                           ({"weights": "float64"}, "float64 for both"), ({"temperature": -1.0}, "temperature -1.0"),
                           ({"temperature": 1e-40}, "temperature 1e-40"),
                           ({"temperature": math.nan}, "temperature nan")):
        with pytest.raises(UserError, match=message):
            Decoding(**wrong)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_cuda
@pytest.mark.parametrize("backbone", [Mamba, LSTM, Pythia])
def test_a_gpu_says_what_the_cpu_says(backbone):
    task = Addition(4)
    model, problems = _setting(task, backbone)
    _train(model, task, problems)
    expected = rollout(model, task.vocabulary(), task, problems, 4, Decoding("host"))
    found = rollout(model.cuda(), task.vocabulary(), task, problems, 4, Decoding("device"))
    assert [(row.tokens, row.kinds, row.reason) for row in expected] == [
        (row.tokens, row.kinds, row.reason) for row in found]


@needs_cuda
def test_a_gpu_draws_what_the_cpu_draws():
    task = Addition(4)
    model, problems = _setting(task)
    decoding = Decoding("device", temperature=1.5, seed=3)
    expected = rollout(model, task.vocabulary(), task, problems, 4, decoding)
    found = rollout(model.cuda(), task.vocabulary(), task, problems, 4, decoding)
    assert [row.tokens for row in expected] == [row.tokens for row in found]


@needs_cuda
def test_the_kernel_s_draws_have_the_softmax_s_frequencies():
    from benchmarks.sampling import drawn, p_value, probabilities

    chances = probabilities()
    counts = drawn(chances, 2 * 10**7, 0.7, torch.device("cuda"), rows=16_384)
    for chance, count in zip(chances.tolist(), counts.tolist(), strict=True):
        assert p_value(count, int(counts.sum()), chance) > 1e-4, (chance, count)


@needs_cuda
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("states", ["float32", "bfloat16"])
def test_on_a_gpu_after_passes_rows_are_where_steps_lead(weights, states, monkeypatch):
    task, calls, plain = Addition(4), [], scan_cuda.carried_scan
    monkeypatch.setattr(scan_cuda, "FEWEST", 1)  # else these rows are too few for the suite's scan
    monkeypatch.setattr(scan_cuda, "carried_scan", lambda *parts: calls.append(1) or plain(*parts))
    backbone, _ = _setting(task, d_inner=512, dt_min=0.01, initializer_range=0.3)
    tolerance = 1e-4 if weights == states == "float32" else 5e-2
    _compare_with_steps(task, backbone.cuda(), Decoding("device", weights, states), tolerance, monkeypatch)
    assert bool(calls) == (weights == "bfloat16")


@needs_cuda
@pytest.mark.parametrize("backbone", [GRU, GatedDeltaNet, LSTM, functools.partial(Hybrid, attention=(0,)), Mamba,
                                      Mamba2, Mamba3, Mistral, Pythia, XLSTM])
def test_on_a_gpu_passes_say_what_steps_say(backbone, monkeypatch):
    task, made = Addition(4), []
    model, _ = _setting(task, backbone)
    problems = [(problem, len(problem.prompt) + 40)
                for problem in (task.problem("test", 0, digits, 0) for digits in (300, 299, 40, 3, 290, 2))]
    passes = PrefillPlan.passes
    monkeypatch.setattr(PrefillPlan, "passes", lambda *a: made.extend(passes(*a)) or passes(*a))
    found = rollout(model.cuda(), task.vocabulary(), task, problems, 4, Decoding("device"))
    monkeypatch.setattr(PrefillPlan, "passes", lambda *a: ())
    expected = rollout(model, task.vocabulary(), task, problems, 4, Decoding("device"))
    assert made and [row.tokens for row in found] == [row.tokens for row in expected]


@needs_cuda
@pytest.mark.parametrize(("weights", "states", "tolerance"), [
    (torch.float32, torch.float32, 1e-4), (torch.bfloat16, torch.float32, 3e-2),
    (torch.bfloat16, torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("rows", [1, 20, 130, 300])
def test_fused_steps_are_the_model(rows, weights, states, tolerance):
    torch.manual_seed(0)
    model = Mamba(40, n_layer=3, d_model=192).cuda().eval()
    tokens = torch.randint(0, 40, (rows, 50), device="cuda")
    decoder = model.decoder(rows, 50, weights, states)
    with torch.inference_mode():
        expected, _ = model(tokens)
        again = torch.arange(0, rows, 3, device="cuda")
        decoder.step(tokens[:, 7])
        decoder.reset(torch.arange(rows, device="cuda"))
        logits = []
        for t in range(50):
            if t == 20:  # these start over
                decoder.reset(again)
                fresh, _ = model(tokens[again, 20:])
            logits.append(decoder.step(tokens[:, t]).clone())
        found = torch.stack(logits, 1)
        expected[again, 20:] = fresh
    error = (found - expected).norm() / expected.norm()
    assert error < tolerance
