"""Rollouts that take known tokens in passes say what rollouts that take them one by one say."""

import importlib.util
from functools import partial

import pytest
import torch

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Addition, Problem
from length_gen.datamodules.tokens import END, Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones import LSTM, HuggingFace, Hybrid, Mamba, Mistral, Pythia, Suffix
from length_gen.lightning_modules.decoding import prefill
from length_gen.lightning_modules.decoding import rollout as module
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.tools import Tool

WORDS = [END, *"abcdefgh"]
LLAMA = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)


class Echo(Tool):
    """Answers half of the tokens, by one token or by hundreds."""

    def reset(self, prompt):
        text = [*prompt[1:], *prompt] * 4
        self.commands = {"e": lambda: tuple(text), "f": lambda: ("a",), "g": lambda: tuple(text[:40]),
                         "h": lambda: ()}

    def write(self, token):
        return None


class Echoes:
    def tool(self, problem):
        return Echo()

    def shown(self, problem):
        return problem.prompt


def problems(longest=300):
    """Prompts and observations from 2 tokens to some hundreds; some budgets end within either."""
    result = []
    for i in range(9):
        prompt = tuple("abcdefgh"[(i + j * j) % 8] for j in range(2 + 17 * i % 90))
        result.append((Problem(prompt, i), min(longest, [300, 150, 61, 200][i % 4]) + i))
    return result


BACKBONES = {
    "Mamba": lambda: Mamba(len(WORDS), n_layer=2, d_model=32, dt_min=0.1, dt_max=1.0, initializer_range=0.3),
    "LSTM": lambda: LSTM(len(WORDS), n_layer=2, d_model=32),
    "Pythia": lambda: Pythia(len(WORDS), n_layer=2, d_model=32, initializer_range=0.3),
    "Mistral": lambda: Mistral(len(WORDS), n_layer=2, d_model=32, window=13, initializer_range=0.3),
    "Hybrid": lambda: Hybrid(len(WORDS), n_layer=2, d_model=32, window=40, initializer_range=0.3),
    "Suffix": lambda: Suffix(len(WORDS))}
TRANSFORMERS = {"llama": LLAMA, "gemma2": LLAMA | {"sliding_window": 7, "head_dim": 8},
                "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}}
if importlib.util.find_spec("causal_conv1d"):  # transformers then calls its CUDA kernel on the CPU
    del TRANSFORMERS["mamba"]
BACKBONES |= {kind: partial(HuggingFace, len(WORDS), config={"model_type": kind, **settings})
              for kind, settings in TRANSFORMERS.items()}


def build(name):
    torch.manual_seed(4)
    backbone = BACKBONES[name]().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return backbone


@pytest.fixture
def passes(monkeypatch):
    """Rows and tokens a row of every pass that is made."""
    made, plain = [], module._Stepper.prefill

    def noted(self, rows, tokens):
        made.append((len(rows), len(tokens[0])))
        plain(self, rows, tokens)

    monkeypatch.setattr(module._Stepper, "prefill", noted)
    return made


def same(found, expected):
    return all((a.tokens, a.kinds, a.reason, a.detail) == (b.tokens, b.kinds, b.reason, b.detail)
               for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("name", "most"), [*((name, 50) for name in BACKBONES), ("Mamba", 10**6), ("Pythia", 10**6)])
def test_passes_say_what_steps_say(name, most, passes, monkeypatch):
    theirs = name in TRANSFORMERS
    if theirs:
        pytest.importorskip("transformers")
    backbone, vocabulary, rows = build(name), Vocabulary(WORDS), problems(60 if theirs else 300)  # they are slow
    monkeypatch.setattr(prefill, "MOST_TOKENS", {"cpu": most})
    monkeypatch.setattr(prefill, "MOST_BYTES", 2 * backbone.state_size(max(most for _, most in rows)))
    found = rollout(backbone, vocabulary, Echoes(), rows, batch_size=3)
    assert all(count * length <= most and count <= 2 for count, length in passes)
    assert len(passes) > 2 or name == "mamba"  # which goes on a token at a time only
    monkeypatch.setattr(module, "_pass_over", lambda *_: None)
    assert same(found, rollout(backbone, vocabulary, Echoes(), rows, batch_size=3))
    assert theirs or name == "Suffix" or any(row.kinds.count(Kind.OBSERVATION) > 20 for row in found)


def test_a_prompt_beyond_the_budget_ends_there(passes):
    problem = Problem(tuple("abcd" * 50), 1)
    row, = rollout(build("LSTM"), Vocabulary(WORDS), Echoes(), [(problem, 120)])
    assert (row.tokens, row.reason, passes) == (list(problem.prompt[:120]), "budget", [(1, 118)])


@pytest.mark.parametrize("most", [1, 3, 20, 100])
def test_a_pass_that_does_not_fit_in_memory_is_halved(most):
    taken = {row: [] for row in range(7)}

    class Small:
        def prefill(self, rows, tokens):
            if tokens.numel() > most:
                raise torch.OutOfMemoryError
            for row, new in zip(rows.tolist(), tokens.tolist(), strict=True):
                taken[row] += new

    plan, tokens = prefill.PrefillPlan(build("LSTM"), 50, 2), torch.arange(35).view(5, 7)
    plan.take(Small(), torch.tensor([6, 0, 2, 5, 1]), tokens)
    assert [taken[row] for row in (6, 0, 2, 5, 1)] == tokens.tolist() and not taken[3] + taken[4]
    assert plan.most <= most or most == 100
    with pytest.raises(torch.OutOfMemoryError):
        most = 0
        plan.take(Small(), torch.tensor([0]), tokens[:1])


def test_short_observations_stay_on_the_path_of_steps(passes):
    task = Addition(4)
    backbone = Mamba(len(task.vocabulary()), n_layer=1, d_model=16).eval()
    chosen = [task.parse(text) for text in ("1+2", "3+4", "5+6", "7+8")]
    rollout(backbone, task.vocabulary(), task, [(p, budget(task.record(p))) for p in chosen], batch_size=4)
    assert all(length <= 4 for _, length in passes) and len(passes) <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["Mamba", "LSTM", "Pythia"])
def test_a_gpu_says_what_the_cpu_says(name, passes):
    backbone, vocabulary = build(name), Vocabulary(WORDS)
    expected = rollout(backbone, vocabulary, Echoes(), problems(), 4)
    assert same(rollout(backbone.cuda(), vocabulary, Echoes(), problems(), 4), expected) and passes
