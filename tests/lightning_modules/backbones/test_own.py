"""A backbone of one's own: one class, and nothing else to change."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from length_gen.lightning_modules.backbones import Backbone
from length_gen.lightning_modules.commands.main import main
from tests.commands import TINY

SOURCE = Path(__file__)


class Elman(Backbone):
    """h = tanh(E[token] + W h) (Elman 1990). State: h [B, d_model]."""

    def __init__(self, vocab_size: int, d_model: int = 64) -> None:
        super().__init__(vocab_size)
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.recurrent = nn.Linear(d_model, d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def initial_state(self, batch_size):
        return self.head.weight.new_zeros(batch_size, self.recurrent.in_features)

    def step(self, tokens, state):
        state = torch.tanh(self.embedding(tokens) + self.recurrent(state))
        return self.head(state), state

    def forward(self, tokens, state=None, return_state=True):
        state, logits = self.initial_state(len(tokens)) if state is None else state, []
        for token in tokens.unbind(1):
            out, state = self.step(token, state)
            logits.append(out)
        return torch.stack(logits, 1), state


def test_it_trains_verifies_and_rolls_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = SOURCE.read_text()
    imports = "import torch\nfrom torch import nn\nfrom length_gen.lightning_modules.backbones import Backbone\n\n\n"
    Path("my_backbone.py").write_text(imports + code[code.index("class Elman"):code.index("def test_")])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    main(["fit", *TINY, "--model.backbone", "my_backbone.Elman", "--model.backbone.d_model", "16"])
    metrics = json.loads(Path("runs/add/version_0/metrics.json").read_text())
    assert metrics["backbone"] == "elman" and metrics["disagreement"] is None
    assert {record["evaluator"] for record in metrics["records"]} == {"rollout", "verify"}
