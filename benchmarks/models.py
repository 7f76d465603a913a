"""What benchmarks share: models trained by the suite's own loop, the speed of memory, records of runs before."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning
import torch

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import ToolTask
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.evaluation.metrics import write_metrics
from length_gen.lightning_modules.model import TrajectoryModel


def trained(task: ToolTask, backbone: Callable[[int], Backbone], steps: int, rows: int, row_length: int,
            learning_rate: float = 3e-3, seed: int = 1) -> TrajectoryModel:
    """A model trained for so many steps of rows x row_length tokens, in bf16 on a GPU; 0 steps: only initialised."""
    lightning.seed_everything(seed, verbose=False)
    data = TrajectoryDataModule(task, rows, row_length=row_length, seed=seed)
    model = TrajectoryModel(backbone, data.vocabulary, data.task_name, learning_rate=learning_rate)
    cuda = torch.cuda.is_available()
    if steps:
        trainer = lightning.Trainer(max_steps=steps, accelerator="auto", devices=1, logger=False,
                                    precision="bf16-mixed" if cuda else "32-true", gradient_clip_val=1.0,
                                    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                                    limit_val_batches=0, use_distributed_sampler=False, num_sanity_val_steps=0)
        trainer.fit(model, data)
    return model.to("cuda" if cuda else "cpu").eval()


def copy_bandwidth() -> float:
    """Bytes read and written a second by a large copy on the GPU."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    target.copy_(source)
    start.record()
    for _ in range(10):
        target.copy_(source)
    stop.record()
    torch.cuda.synchronize()
    return 20 * source.numel() * source.element_size() / (start.elapsed_time(stop) / 1000)


def floor(backbone: Mamba, batch: int, weights: str, states: str, bandwidth: float) -> float:
    """Tokens/s at which memory alone would allow decoding, with weights and states of these types."""
    size = {"float32": 4, "bfloat16": 2}
    recent, h = backbone.initial_state(1)[0]
    layers = len(backbone.initial_state(1))
    row = layers * (recent.numel() * size[weights] + h.numel() * size[states])
    step = (backbone.num_parameters * size[weights] + 2 * batch * row) / bandwidth
    return batch / step


def kept(out: Path) -> list[dict]:
    """Rows of a file of before, each with the command, commit, device and versions that it was measured with."""
    if not out.is_file():
        return []
    facts = json.loads(out.read_text(encoding="utf-8"))
    return [{name: value for name, value in facts.items() if name not in ("records", "targets")} | row
            for row in facts["records"]]


def keep(out: Path, row: dict, facts: dict, key: Sequence[str] = ("what",), **settings: object) -> None:
    """Write a row and what it was measured with into a file, in the place of the one of the same key, if there is one.

    settings: what else the file says of all of its rows
    """
    rows = kept(out)
    same = [place for place, other in enumerate(rows) if all(other.get(name) == row[name] for name in key)]
    place = same[0] if same else len(rows)
    rows[place : place + 1] = [row | facts]
    write_metrics(out, rows, **facts, **settings)
