"""Rollouts with a draft say, token by token, what rollouts without one say; only sooner."""

import pytest
import torch

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.settings import SETTINGS
from length_gen.datamodules.tasks import Addition, HanoiRecursive, LogicalGraph, Multiplication
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones import LSTM, Mamba, Suffix
from length_gen.lightning_modules.decoding import drafting
from length_gen.lightning_modules.decoding import rollout as module
from length_gen.lightning_modules.decoding.drafting import Draft, certain
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.tools import UserError
from tests.lightning_modules.decoding.test_prefill import BACKBONES, TRANSFORMERS, WORDS, Echoes, build, problems, same

STEPS = Decoding("host")


@pytest.fixture
def small(monkeypatch):
    """Drafts are taken in many passes also where trajectories are short."""
    monkeypatch.setattr(drafting, "FIRST", 8)
    monkeypatch.setattr(drafting, "MOST", 64)
    monkeypatch.setattr(drafting, "WORTH", 4)
    monkeypatch.setattr(Draft, "__init__", lambda self, tokens: _start(self, tokens))


def _start(draft, tokens):
    draft.tokens, draft.size, draft.begin, draft._wait = tokens, 8, 0, 1


@pytest.fixture
def counted(monkeypatch):
    """Steps that were made, and tokens that were checked in each pass."""
    steps, checks = [], []
    plain = module._Stepper.__call__, module._Stepper.check
    monkeypatch.setattr(module._Stepper, "__call__", lambda self, tokens: steps.append(1) or plain[0](self, tokens))
    monkeypatch.setattr(module._Stepper, "check", lambda self, rows, tokens, take: checks.append(
        len(rows) * (tokens.shape[1] - 1)) or plain[1](self, rows, tokens, take))
    return steps, checks


def changed(said, prompt, how):
    """A draft that is not what a row says: `how` names where, and for how long."""
    said, n = list(said), len(said)
    other = {token: WORDS[1 + (WORDS.index(token) + 1) % 8] for token in WORDS}
    for start, stop in {"right": [], "early": [(prompt, prompt + 1)], "late": [(n - 2, n)],
                        "often": [(i, i + 1) for i in range(prompt, n, 13)], "long": [(n // 3, 2 * n // 3)],
                        "never": [(prompt, n)], "question": [(1, 2)]}.get(how, []):
        said[start:stop] = [other[token] for token in said[start:stop]]
    return {"short": said[: n // 2], "longer": said * 2, "shifted": said[: n // 2] + said[n // 2 + 1 :],
            "none": [], "inserted": [*said[: n // 2], "a", *said[n // 2 :]]}.get(how, said)


HOW = ("right", "early", "late", "often", "long", "never", "question", "short", "longer", "shifted", "none", "inserted")


@pytest.mark.parametrize("name", BACKBONES)
def test_whatever_the_draft_is(name, small, counted):
    if theirs := name in TRANSFORMERS:
        pytest.importorskip("transformers")
    backbone, vocabulary, rows = build(name), Vocabulary(WORDS), problems(60 if theirs else 150)
    rows = (rows + rows)[: len(HOW)]
    expected = rollout(backbone, vocabulary, Echoes(), rows, batch_size=8, decoding=STEPS)
    checks = counted[1]
    assert not checks and all(row.engine == "host" for row in expected)
    for shift in range(len(HOW))[:: 12 if theirs else 6]:
        drafts = [changed(row.tokens, len(row.prompt), HOW[(i + shift) % len(HOW)]) for i, row in enumerate(expected)]
        found = rollout(backbone, vocabulary, Echoes(), rows, batch_size=8, drafts=drafts)
        assert same(found, expected)
        assert {row.engine for row in found} == {"draft" if name != "mamba" else "host"}
    assert checks or name == "mamba"  # which goes on a token at a time only


@pytest.mark.parametrize(("task", "setting"), [*((Multiplication, name) for name in SETTINGS),
                                               (LogicalGraph, "interactive"), (HanoiRecursive, "interactive")])
def test_untrained_models_with_the_reference_as_draft(task, setting, small):
    task = task(4, setting=setting)
    chosen = [task.problem("test", 0, task.shortest + i, i, task.variants[-1]) for i in range(3)]
    references = [task.record(problem) for problem in chosen]
    rows = [(p, budget(r)) for p, r in zip(chosen, references, strict=True)]
    for seed in range(3):
        torch.manual_seed(seed)
        backbone = LSTM(len(task.vocabulary()), n_layer=1, d_model=16).eval()
        expected = rollout(backbone, task.vocabulary(), task, rows, 2, STEPS)
        found = rollout(backbone, task.vocabulary(), task, rows, 2, drafts=[r.tokens for r in references])
        assert same(found, expected)


def test_a_model_that_knows_the_reference_takes_few_steps(counted):
    task = Addition(5)
    problem = task.problem("test", 0, 100, 0)
    reference = task.record(problem)
    model = Suffix(len(task.vocabulary()), 16, min_count=1)
    ids = torch.from_numpy(task.vocabulary().encode(reference.tokens))[None].long()
    model.learn(ids[:, :-1], ids[:, 1:])
    row, = rollout(model, task.vocabulary(), task, [(problem, budget(reference))], drafts=[reference.tokens])
    assert row.tokens == reference.tokens and row.kinds == reference.kinds and row.reason == "end"
    steps, checks = counted
    assert len(reference.tokens) > 3000 and len(steps) < 20 and max(checks) >= 1024


class Tied(LSTM):
    """Says two tokens equally gladly, by steps the first of them, and by passes, within rounding, the other."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        with torch.no_grad():
            self.lm_head.weight[1:3] = 0
            self.lm_head.bias[1:3] = 5

    def forward(self, tokens, state=None, return_state=True):
        logits, state = super().forward(tokens, state, return_state)
        logits[..., 2] += 1e-6 * logits.abs().amax(-1)
        return logits, state

    def step(self, tokens, state):
        logits, state = super().step(tokens, state)
        logits[..., 1] += 1e-6 * logits.abs().amax(-1)
        return logits, state


def test_steps_decide_where_two_tokens_are_nearly_as_likely(counted):
    torch.manual_seed(1)
    backbone, vocabulary, rows = Tied(len(WORDS), n_layer=1, d_model=16).eval(), Vocabulary(WORDS), problems()[:2]
    expected = rollout(backbone, vocabulary, Echoes(), rows, decoding=STEPS)
    other = [["b" if token == "a" else token for token in row.tokens] for row in expected]
    assert same(rollout(backbone, vocabulary, Echoes(), rows, drafts=other), expected) and counted[1]
    assert expected[0].tokens[-20:] == ["a"] * 20
    logits, _ = backbone(torch.from_numpy(vocabulary.encode(expected[0].tokens))[None].long())
    assert (logits.argmax(-1) == 2).all()  # what passes alone would say


def test_what_is_certain():
    logits = torch.tensor([[1000.0, 0, 999.7], [5, 4, -torch.inf], [1, torch.nan, 0]])[None]
    first = torch.zeros(1, 3, dtype=torch.long)
    assert certain(logits[:, :2], first[:, :2]).tolist() == [[False, True]]  # 0.3 is below 4e-4 of 1,000
    assert certain(logits[:, 1:2], first[:, :1] + 1).tolist() == [[False]]
    assert not certain(logits, first).any()  # a number is missing


def test_a_draft_is_asked_for_less_where_it_is_wrong():
    draft, said = Draft("x" * 30_000), ["x"]
    asked = []
    while len(said) < 30_000:
        count = draft.ahead(said)
        right = count if len(said) > 5000 else min(count, 1)
        asked.append(count)
        said += "x" * max(right, 1)
        if count:
            draft.learn(count, right, len(said))
    assert sum(map(bool, asked[:4900])) < 20 and max(asked) == drafting.MOST
    assert Draft("abc").ahead(["b"]) == 0 and Draft("abc").ahead(["a"]) == 2


def test_what_a_draft_is_not_for():
    with pytest.raises(UserError, match="engine draft has no weights bfloat16"):
        Decoding("draft", weights="bfloat16")
    with pytest.raises(UserError, match="temperature 1"):
        Decoding("draft", temperature=1)
    task = Addition(4)
    backbone = Mamba(len(task.vocabulary()), n_layer=1, d_model=16).eval()
    problem = task.parse("1+2")
    drafts = [task.record(problem).tokens]
    for decoding in (STEPS, Decoding("device"), Decoding(weights="bfloat16")):
        row, = rollout(backbone, task.vocabulary(), task, [(problem, 20)], decoding=decoding, drafts=drafts)
        assert row.engine == ("device" if decoding.engine == "device" else "host")
