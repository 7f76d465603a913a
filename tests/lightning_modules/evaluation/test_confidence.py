import numpy as np
import pytest
import torch

from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.backbones import GRU
from length_gen.lightning_modules.evaluation import confidence as module
from length_gen.lightning_modules.evaluation.confidence import confidence, percent


@pytest.mark.parametrize("most", [2**24, 100])
def test_probabilities_are_those_of_single_steps(monkeypatch, most):
    monkeypatch.setattr(module, "MOST_LOGITS", most)  # of chunks of some tokens
    task = Addition(5)
    vocabulary = task.vocabulary()
    torch.manual_seed(0)
    net = GRU(len(vocabulary), d_model=16, n_layer=1).eval()
    tokens = task.record(task.parse("27+95")).tokens
    due = tokens[:]
    due[40] = "[END]"
    found = confidence(net, vocabulary, tokens, due)
    state = net.initial_state(1)
    for i, token in enumerate(tokens[:-1], 1):
        logits, state = net.step(torch.tensor([vocabulary.id(token)]), state)
        expected = np.exp(logits[0].detach().double().numpy())
        expected /= expected.sum()
        assert found.written[i] == pytest.approx(expected[vocabulary.id(tokens[i])], rel=1e-4)
        assert found.due[i] == pytest.approx(expected[vocabulary.id(due[i])], rel=1e-4)
        order = np.argsort(-expected)[:3]
        assert found.best[i].tolist() == vocabulary.decode(order)
        assert found.of_best[i] == pytest.approx(expected[order], rel=1e-4)
    assert found.written[0] == 0 and found.written[40] != found.due[40]


@pytest.mark.parametrize(("share", "text"), [
    (0.0, "<0.1%"), (0.0004, "<0.1%"), (0.0006, "0.1%"), (0.5, "50.0%"), (0.9994, "99.9%"), (0.9996, ">99.9%"),
    (1.0, ">99.9%")])
def test_no_probability_looks_like_a_certainty(share, text):
    assert percent(share) == text
