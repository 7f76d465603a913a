"""Margins, first errors and step sizes, beside what a plain pass over whole trajectories says."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.recording import RecordedRows
from length_gen.datamodules.tasks import Addition, Copy, Mixture
from length_gen.datamodules.tokens import PREDICTED
from length_gen.lightning_modules.backbones import GRU, Mamba
from length_gen.lightning_modules.evaluation.diagnostics import CONTEXT, diagnose, diagnostics
from length_gen.lightning_modules.evaluation.verify import verify

TASK = Addition(4)
VOCABULARY = TASK.vocabulary()
PROBLEMS = [TASK.problem("test", 0, length, 0) for length in (12, 5, 1)]


def model(backbone=Mamba):
    torch.manual_seed(0)
    return backbone(len(VOCABULARY), n_layer=2, d_model=32).eval()


def found(backbone, size):
    return diagnose(backbone, VOCABULARY, RecordedRows(TASK, PROBLEMS, VOCABULARY, size, 0), len(PROBLEMS))


def plain(backbone, problem):
    """Margin, phase and wrong token of every predicted token, by one pass and a loop."""
    reference = TASK.record(problem)
    ids = VOCABULARY.encode(reference.tokens)
    logits = backbone(torch.tensor(ids)[None])[0][0].detach().numpy()
    for i in range(1, len(ids)):
        if reference.kinds[i] in PREDICTED:
            row = logits[i - 1]
            other = max((v, k) for k, v in enumerate(row) if k != ids[i])
            yield i, reference.phase_at(i), float(row[ids[i]] - other[0]), VOCABULARY.tokens[other[1]]


@pytest.mark.parametrize("backbone", [Mamba, GRU])
def test_margins_are_those_of_a_plain_pass(backbone):
    net = model(backbone)
    result = found(net, 100)
    rows = [list(plain(net, problem)) for problem in PROBLEMS]
    for phase, said in result["phases"].items():
        margins = [m for row in rows for _, name, m, _ in row if name == phase]
        assert (said["decisions"], said["wrong"]) == (len(margins), sum(m <= 0 for m in margins))
        assert np.allclose(said["margins"], np.quantile(margins, (0, 0.001, 0.01, 0.1, 0.5)), rtol=2e-3, atol=1e-4)
    assert sum(part["decisions"] for part in result["parts"]) == sum(map(len, rows))
    assert min(part["margins"][0] for part in result["parts"]) == min(
        said["margins"][0] for said in result["phases"].values())
    for row, problem, error in zip(rows, PROBLEMS, result["errors"], strict=True):
        i, phase, margin, other = next(decision for decision in row if decision[2] <= 0)
        tokens = TASK.record(problem).tokens
        assert (error["position"], error["phase"], error["said"], error["due"]) == (i, phase, other, tokens[i])
        assert error["context"] == " ".join(tokens[max(0, i - CONTEXT) : i])
        assert error["margin"] == pytest.approx(margin, rel=1e-3, abs=1e-5)
    checked = verify(net, VOCABULARY, [TASK.record(problem) for problem in PROBLEMS])
    assert [error["position"] for error in result["errors"]] == [outcome.first_error for outcome in checked]


def test_chunks_change_nothing():
    whole, chunks = (found(model(), size) for size in (10_000, 37))
    for name in ("phases", "parts", "errors"):
        assert str(whole[name])[:200] == str(chunks[name])[:200]
    assert len(chunks["states"]) == 10 and all(len(state) == 4 for state in chunks["states"])


def test_a_question_longer_than_a_chunk_has_no_step_sizes():
    problem = TASK.problem("test", 0, 40, 0)
    few = diagnose(model(), VOCABULARY, RecordedRows(TASK, [problem], VOCABULARY, 16, 0), 1)
    reference = TASK.record(problem)
    start = reference.phases[0][0] // 16 * 16
    assert start > 0
    assert few["step_sizes"]["first"]["0"].keys() == {reference.phase_at(i) for i in range(start, start + 16)} - {""}
    assert few["step_sizes"]["last"]["0"]


def test_step_sizes_are_those_that_the_scan_takes():
    net, taken = model(), []
    mixer = net.backbone["layers"][1].mixer
    plain = type(mixer)._selection
    type(mixer)._selection = lambda self, x: taken.append((self, plain(self, x))) or plain(self, x)
    try:
        with torch.no_grad():
            net(torch.tensor(VOCABULARY.encode(TASK.record(PROBLEMS[0]).tokens))[None])
    finally:
        type(mixer)._selection = plain
    own, = (selection[0][0] for module, selection in taken if module is mixer)
    reference = TASK.record(PROBLEMS[0])
    places = [i for i in range(len(reference.tokens)) if reference.phase_at(i) == "copy"]
    expected = np.quantile(own[places].numpy(), (0.01, 0.5, 0.99), axis=0).mean(1)
    assert np.allclose(found(net, 10_000)["step_sizes"]["first"]["1"]["copy"], expected, rtol=1e-3)
    assert (own > F.softplus(torch.tensor(-20.0))).all()


def test_every_record_has_its_diagnostics():
    data = TrajectoryDataModule(Mixture([Copy(3), Addition(3)]))
    net = Mamba(len(data.vocabulary), n_layer=1, d_model=16).eval()
    records = [{"task": task, "variant": variant, "problem_set": problem_set, "length": 5}
               for task, variant in (("copy", ""), ("addition", "n + m")) for problem_set in ("uniform", "structured")]
    rows = list(diagnostics(net, data, [*records, records[0]], 2, "test"))
    assert [{key: row[key] for key in records[0]} for row in rows] == records
    assert all(row["problems"] == 2 and row["phases"] for row in rows)
