"""Configurations: every file builds its parts, and what they name can be used, or is refused in one line."""

import json
import re
import sys
from datetime import timedelta

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from length_gen.lightning_modules.commands.arguments import Arguments
from length_gen.lightning_modules.commands.command_line import CLI, PATIENCE
from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from length_gen.lightning_modules.training.sharding import FullyShard
from tests.commands import ROOT, TINY

EXPERIMENTS = [[path.name] if path.name != "million.yaml" else ["add.yaml", path.name]
               for path in sorted((ROOT / "configs").glob("*.yaml")) if not path.name.startswith("codefix")]
OVERLAYS = [["add.yaml", f"{folder}/{path.name}"] for folder in ("model", "trainer")
            for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))]


def test_every_key_of_a_config_says_what_it_is():
    for path in sorted((ROOT / "configs").glob("**/*.yaml")):
        if path.parent.name != "sweeps":
            bare = re.findall(r"^ *\w+: [^#\n]+$", path.read_text(encoding="utf-8"), flags=re.M)
            assert not bare, f"{path.name}: {bare}"


@pytest.mark.parametrize(("strategy", "patience"), [
    (["--trainer.strategy", "ddp"], PATIENCE), (["--config", str(ROOT / "configs/trainer/fsdp.yaml")], PATIENCE),
    (["--trainer.strategy", "DDPStrategy", "--trainer.strategy.timeout", "0:02:00"], timedelta(minutes=2))],
    ids=["ddp", "fsdp", "own"])
def test_a_rank_waits_for_the_others_for_long(strategy, patience):
    """One problem of an evaluation may take longer than PyTorch's half an hour; a time that the user gives stays."""
    arguments = ["--config", str(ROOT / "configs/add.yaml"), "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    cli = CLI("fit", Arguments([*arguments, *strategy]))
    assert cli.trainer.strategy._timeout == patience > timedelta(0)


@pytest.mark.parametrize("configs", EXPERIMENTS + OVERLAYS, ids=" ".join)
def test_every_config_builds_its_parts(configs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [part for config in configs for part in ("--config", str(ROOT / "configs" / config))]
    with torch.device("meta"):  # the shapes of the large ones are enough
        cli = CLI("fit", Arguments([*arguments, "--trainer.accelerator", "cpu"]))
    assert cli.model.backbone.num_parameters > 0 and cli.datamodule.task.max_length >= 1
    assert cli.trainer.max_steps > 0


def test_a_pretrained_model_is_finetuned_by_low_rank_updates_and_exported(tmp_path, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Mamba2Config(vocab_size=70, hidden_size=16, num_hidden_layers=1, head_dim=8, num_heads=4,
                                       n_groups=1, state_size=8)
    transformers.Mamba2ForCausalLM(config).save_pretrained(tmp_path / "start")
    pretrained = ["--model.backbone", "Pretrained", "--model.backbone.init_args.name", "start"]
    tiny = [*TINY[: TINY.index("--model.backbone.n_layer")], *pretrained, "--evaluation.evaluators", "[verify]",
            "--trainer.enable_progress_bar", "false", "--trainer.max_steps", "2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit):
        main(["fit", *tiny])
    assert "embedding has 70 rows: give --model.backbone.init_args.resize true" in capsys.readouterr().err
    main(["fit", *tiny, "--model.backbone.init_args.resize", "true", "--model.backbone.init_args.lora_rank", "2"])
    main(["export", "--out", "end"])
    assert "transformers.Mamba2ForCausalLM" in capsys.readouterr().out
    start, end = (transformers.Mamba2ForCausalLM.from_pretrained(tmp_path / name).eval() for name in ("start", "end"))
    weights = load_checkpoint(tmp_path / "runs/add/version_0/checkpoints/last.ckpt")["state_dict"]
    stem = "backbone.model.backbone.layers.0.mixer.in_proj.parametrizations.weight"
    update = 32.0 / 2 * weights[f"{stem}.0.B"] @ weights[f"{stem}.0.A"]
    before, after = (model.backbone.layers[0].mixer.in_proj.weight for model in (start, end))
    assert update.abs().max() > 0 and torch.allclose(after, before + update, atol=1e-6)
    tokens = json.loads((tmp_path / "end/tokens.json").read_text())
    assert end.config.vocab_size == len(tokens) < 70 and end(torch.tensor([[1, 2]])).logits.shape[-1] == len(tokens)


@pytest.mark.parametrize(("overlays", "strategy"), [(["gpu.yaml"], DDPStrategy),
                                                    (["gpu.yaml", "fsdp.yaml"], FullyShard)])
def test_trainer_overlays_take_several_devices(overlays, strategy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configs = [ROOT / "configs/add.yaml", *(ROOT / "configs/trainer" / name for name in overlays)]
    arguments = [part for config in configs for part in ("--config", str(config))]
    trainer = CLI("fit", Arguments([*arguments, "--trainer.accelerator", "cpu", "--trainer.devices", "4"])).trainer
    assert type(trainer.strategy) is strategy and trainer.world_size == 4 and trainer.precision == "bf16-mixed"


UNUSABLE = {
    "no such device": (["--trainer.accelerator", "gpu"], "the trainer cannot be built"),
    "a file in the place of the folder": (["--trainer.logger.save_dir", "file"], "folder that can be written to"),
    "a folder that is read-only": (["--trainer.logger.save_dir", "/proc"], "folder that can be written to"),
    "a folder that is not there": (["--trainer.logger.save_dir", "new/folder"], None),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_devices_and_folders_that_cannot_be_used(case, tmp_path, monkeypatch, refused):
    options, message = UNUSABLE[case]
    if case == "no such device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "file").touch()
    few = ["--trainer.max_steps", "1", "--evaluation.evaluators", "[verify]"]
    if message:
        assert message in refused("fit", *TINY, *options, *few)
    else:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["run.py"])
        main(["fit", *TINY, *options, *few])
        assert (tmp_path / "new/folder/add/version_0/metrics.json").is_file()
