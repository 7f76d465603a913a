"""What benchmarks share: models trained by the suite's own loop, the speed of memory."""

from collections.abc import Callable

import lightning
import torch

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import ToolTask
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.backbones.base import Backbone
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
