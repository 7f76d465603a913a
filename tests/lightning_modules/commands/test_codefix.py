"""Code fixing from the command line: collect, fit, test, rollout; real agents, real commands, tiny models."""

import json
import sys

import pytest
import torch

from length_gen.datamodules.tasks import CodeFixing
from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from tests.agents import UNSANDBOXED
from tests.commands import ROOT

PLAIN = str(UNSANDBOXED).lower()
TINY = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true",
        "--trainer.val_check_interval", "2", "--trainer.enable_progress_bar", "false", "--data.batch_size", "2",
        "--data.row_length", "512", "--data.validation_rows", "2", "--data.num_workers", "0", "--evaluation.lengths",
        "[4]", "--evaluation.problems", "2", "--evaluation.validation_lengths", "[]", "--data.task.vocab_size", "300",
        "--data.task.unsandboxed", PLAIN]


def run(monkeypatch, folder, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    main([str(argument) for argument in arguments])


def test_collect_goes_on_and_says_what_it_has(tmp_path, monkeypatch, capsys):
    collect = ["collect", "out", "--lengths", "[4,5]", "--shard_size", "2", "--unsandboxed", PLAIN, "--workers", "2"]
    run(monkeypatch, tmp_path, *collect, "--count", "3")
    first = (tmp_path / "out/00000.jsonl.gz").read_bytes()
    run(monkeypatch, tmp_path, *collect, "--count", "6")
    assert "6 trajectories" in capsys.readouterr().out and (tmp_path / "out/00000.jsonl.gz").read_bytes() == first
    rows = json.loads((tmp_path / "out/summary.json").read_text())["records"]
    assert sum(row["trajectories"] for row in rows) == 6 and {row["pass_rate"] for row in rows} == {1.0}
    assert (tmp_path / "out/summary.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, *collect, "--count", "6", "--agent", "single_turn")
    assert "holds trajectories with another agent: give another --folder" in capsys.readouterr().err


@pytest.mark.slow
def test_fit_test_and_rollout(trajectories, tmp_path, monkeypatch, capsys):
    small = ["--data.task.trajectories", trajectories / "interactive", "--model.backbone.n_layer", "1",
             "--model.backbone.d_model", "16"]
    run(monkeypatch, tmp_path, "fit", "--config", ROOT / "configs/codefix.yaml", *TINY, *small)
    folder = tmp_path / "runs/codefix/version_0"
    records = json.loads((folder / "metrics.json").read_text())["records"]
    assert {(r["evaluator"], r["problems"], r["setting"]) for r in records} == {
        ("rollout", 2, "interactive"), ("verify", 2, "interactive")}
    assert records[0]["answer_accuracy"] == 0 < records[0]["answer_high"]
    task = CodeFixing(str(trajectories / "interactive"), tokenizer=str(folder / "tokenizer.json"))
    assert list(task.vocabulary().tokens) == load_checkpoint(folder / "checkpoints/last.ckpt")["vocabulary"]
    run(monkeypatch, tmp_path, "test", "--data.task.unsandboxed", PLAIN)
    assert json.loads((folder / "test/metrics.json").read_text())["records"] == records
    run(monkeypatch, tmp_path, "test", "--ckpt_path", folder / "checkpoints/last.ckpt", "--data.task.trajectories",
        folder, "--data.task.tokenizer", folder / "tokenizer.json",  # as where the trajectories are not
        "--data.task.unsandboxed", PLAIN, "--evaluation.evaluators", "[verify]", "--data.packed", "false")
    assert json.loads((folder / "test/metrics.json").read_text())["records"] == records[1:]
    capsys.readouterr()
    run(monkeypatch, tmp_path, "rollout", "--prompt", "4/1", "--data.task.unsandboxed", PLAIN)
    assert "wrong" in capsys.readouterr().out


def test_no_trajectories_get_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "fit", "--config", ROOT / "configs/codefix.yaml")
    assert "no trajectories in trajectories/interactive: collect some with python run.py collect" in (
        capsys.readouterr().err)


@pytest.mark.parametrize("family", ["mamba", "pythia"])
def test_pretrained_models_are_finetuned(family, trajectories, tmp_path, monkeypatch):
    """The paper's configurations, with a tiny model and a tokenizer in the formats of the real ones."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if family == "mamba":
        config = transformers.MambaConfig(vocab_size=310, hidden_size=16, num_hidden_layers=1, state_size=4)
        transformers.MambaForCausalLM(config).save_pretrained(tmp_path / "model")
    else:
        config = transformers.GPTNeoXConfig(vocab_size=310, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                            intermediate_size=32)
        transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "model")
    CodeFixing(str(trajectories / "single_turn"), vocab_size=300).codec.save(tmp_path / "tokenizer/tokenizer.json")
    run(monkeypatch, tmp_path, "fit", "--config", ROOT / f"configs/codefix_{family}1.4b.yaml", *TINY,
        "--data.task.trajectories", trajectories / "single_turn", "--data.task.tokenizer", "tokenizer",
        "--model.backbone.init_args.name", "model", "--trainer.accumulate_grad_batches", "2",
        "--evaluation.evaluators", "[verify]")
    folder = tmp_path / f"runs/codefix_{family}1.4b/version_0"
    assert json.loads((folder / "metrics.json").read_text())["records"][0]["problems"] == 2
    assert load_checkpoint(folder / "checkpoints/last.ckpt")["TrajectoryDataModule"]["trajectories"] == 8
