"""The same training on 1..N devices: speed, efficiency, and whether it is the same training.

    python benchmarks/scaling.py --devices 1 2 4 --models tiny                      # CPU processes (gloo)
    python benchmarks/scaling.py --devices 1 2 --models mamba_130m pythia_paper     # GPUs (nccl)

For every model, strategy and number of devices, in processes that torchrun starts:
- the loss curve at a fixed global batch in float32, compared with that of one device;
- tokens/s at a fixed batch a device (64 x 1024 tokens on GPUs, bf16), efficiency = tokens/s / (N x that of one device),
  the share of the time that collective operations run (overlapped with computing or not), and that spent in waiting
  for data;
- rollouts and verification shared out over the devices (one problem less than would be even): speed, and whether the
  records are those of one device. The model is untrained and in setting `direct`, where nothing ends a row early.

Prints a table and writes results/benchmarks/scaling.json, or scaling_cpu.json.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning import Callback
from torch.profiler import ProfilerActivity, profile

from length_gen.lightning_modules.commands.arguments import Arguments
from length_gen.lightning_modules.commands.command_line import CLI
from length_gen.lightning_modules.evaluation.evaluate import evaluate
from length_gen.lightning_modules.reporting.benchmark import Records, arguments

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()
STRATEGIES = {"ddp": ["--trainer.strategy", "ddp"], "fsdp": ["--config", str(ROOT / "configs/trainer/fsdp.yaml")]}
COMMON = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary",
          "false", "--trainer.limit_val_batches", "0", "--model.schedule", "constant", "--trainer.log_every_n_steps",
          "1000"]


def main() -> None:
    """Run every model, strategy and number of devices."""
    options = arguments(
        __doc__, f"scaling{'' if GPU else '_cpu'}", devices=[1, 2],
        models=(["tiny"], "tiny, or the name of a file in configs/model/"), strategies=STRATEGIES,
        rows=(64 if GPU else 4, "of a device's batch"), row_length=1024 if GPU else 768,
        steps=(40 if GPU else 20, "that are timed"), curve_steps=(20, "of the loss curve"),
        length=(1000 if GPU else 30, "of the problems of the evaluation"),
        evaluators=dict.fromkeys(("rollout", "verify")),
        worker=(str, None))  # settings of a process that torchrun has started
    if options.worker:
        work(json.loads(options.worker))
        return
    if options.devices[0] != 1 or (GPU and max(options.devices) > torch.cuda.device_count()):
        raise SystemExit(f"--devices {options.devices}: the first must be 1; {torch.cuda.device_count()} GPUs are here")
    records = Records(options.out, "cuda" if GPU else "cpu", rows_a_device=options.rows, row_length=options.row_length,
                seed=42)
    for model in options.models:
        one = None
        for devices in options.devices:
            for strategy in options.strategies[: 1 if devices == 1 else None]:
                result = launch(vars(options) | {"model": model, "strategy": strategy, "devices": devices,
                                                 "problems": max(options.devices) * 64 - 1 if GPU else 13})
                one = one or result
                records.add(compare(result, one))
    records.show()


def launch(settings: dict[str, Any]) -> dict[str, Any]:
    """Run `work` on every device and return what it found."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                   str(settings["devices"]), __file__, "--worker", json.dumps(settings | {"result": file.name})]
        subprocess.run(command, check=True, cwd=ROOT)
        return json.loads(Path(file.name).read_text())


def compare(result: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: a result beside that of one device."""
    row = {"what": f"{result['model']}, {result['strategy'] if result['devices'] > 1 else 'alone'}",
           "devices": result["devices"], "tokens/s": round(result["speed"]),
           "efficiency": result["speed"] / result["devices"] / one["speed"],
           "in communication": result["communication"], "waiting for data": result["data_wait"],
           "largest loss difference": max(abs(a - b) for a, b in zip(result["losses"], one["losses"], strict=True))}
    for evaluator in ("rollout", "verify"):
        if evaluator not in result:
            continue
        row[f"{evaluator}, x one device"] = one[evaluator]["seconds"] / result[evaluator]["seconds"]
        row[f"{evaluator}, same records"] = result[evaluator]["records"] == one[evaluator]["records"]
    return row


def work(settings: dict[str, Any]) -> None:
    """One process of one measurement; rank 0 writes the result."""
    result = {key: settings[key] for key in ("model", "strategy", "devices")}
    result["losses"] = curve(settings)
    result |= speed(settings)
    for evaluator in settings["evaluators"]:
        result[evaluator] = evaluation(settings, evaluator)
    if not dist.is_initialized() or dist.get_rank() == 0:
        Path(settings["result"]).write_text(json.dumps(result))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def parts(settings: dict[str, Any], *more: str, callbacks: tuple[Callback, ...] = ()):
    """The model, the data and the trainer of a configuration, with no callbacks but the given."""
    configs = [str(ROOT / "configs/mult.yaml")]
    if settings["model"] != "tiny":
        configs.append(str(ROOT / f"configs/model/{settings['model']}.yaml"))
    if GPU:
        configs.append(str(ROOT / "configs/trainer/gpu.yaml"))
    strategy = STRATEGIES[settings["strategy"]] if settings["devices"] > 1 else []
    arguments = [*(part for config in configs for part in ("--config", config)), *strategy, *COMMON,
                 "--trainer.accelerator", "gpu" if GPU else "cpu", "--trainer.devices", str(settings["devices"]),
                 "--data.row_length", str(settings["row_length"]), *more]
    cli = CLI("fit", Arguments(arguments))
    cli.trainer.callbacks[:] = callbacks
    return cli.model, cli.datamodule, cli.trainer


class Losses(Callback):
    """The loss of every step over all ranks."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loss = outputs["loss"].detach().float().clone()
        if trainer.world_size > 1:
            dist.all_reduce(loss)
        self.values.append(float(loss) / trainer.world_size)


def curve(settings: dict[str, Any]) -> list[float]:
    """Losses of a training in float32 whose global batch does not depend on the number of devices."""
    losses = Losses()
    model, data, trainer = parts(settings, "--data.batch_size", "8", "--trainer.precision", "32-true",
                                 "--trainer.max_steps", str(settings["curve_steps"]), callbacks=(losses,))
    trainer.fit(model, datamodule=data)
    return losses.values


class Clock(Callback):
    """Times some steps, then profiles some more."""

    profiled = 5

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps = warmup, steps
        self.result: dict[str, float] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        done, last = batch_idx + 1, self.warmup + self.steps
        if done == self.warmup:
            self._begun, self._waited = self._now(), trainer.train_dataloader.waited
        elif done == last:
            seconds = self._now() - self._begun
            tokens = self.steps * batch["tokens"].shape[0] * (batch["tokens"].shape[1] - 1) * trainer.world_size
            self.result = {"speed": tokens / seconds,
                           "data_wait": (trainer.train_dataloader.waited - self._waited) / seconds}
            self._profile = profile(activities=[ProfilerActivity.CUDA if GPU else ProfilerActivity.CPU])
            self._profile.__enter__()
            self._begun = self._now()
        elif done == last + self.profiled:
            seconds = self._now() - self._begun
            self._profile.__exit__(None, None, None)
            self.result["communication"] = communication(self._profile) / seconds

    @staticmethod
    def _now() -> float:
        if GPU:
            torch.cuda.synchronize()
        return time.perf_counter()


def communication(profiled: profile) -> float:
    """Seconds in which at least one collective operation ran: kernels of nccl, or operations of gloo."""
    spans = sorted((event.time_range.start, event.time_range.end) for event in profiled.events()
                   if event.name.startswith(("ncclDev", "ncclKernel", "gloo:")))
    total, until = 0.0, 0.0
    for start, end in spans:
        total, until = total + max(0.0, end - max(start, until)), max(until, end)
    return total / 1e6


def speed(settings: dict[str, Any]) -> dict[str, float]:
    """Tokens/s of all devices, each with its own batch, and the shares of communication and of waiting for data."""
    warmup = 5
    clock = Clock(warmup, settings["steps"])
    model, data, trainer = parts(settings, "--data.batch_size", str(settings["rows"] * settings["devices"]),
                                 "--trainer.max_steps", str(warmup + settings["steps"] + Clock.profiled),
                                 callbacks=(clock,))
    trainer.fit(model, datamodule=data)
    return clock.result


def evaluation(settings: dict[str, Any], evaluator: str) -> dict[str, Any]:
    """Seconds and records of an evaluation whose problems the devices share."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model, data, _ = parts(settings, "--data.task.setting", "direct", "--data.packed", "false")
    lightning.seed_everything(42)
    if GPU:
        torch.cuda.set_device(rank)
    model.to(torch.device("cuda", rank) if GPU else "cpu")
    for _ in range(2):  # the first time compiles and captures
        if dist.is_initialized():
            dist.barrier()
        begun = time.perf_counter()
        records = list(evaluate(model.backbone, data, [settings["length"]], lambda length: settings["problems"],
                                evaluator, "validation", 64, rank, world))
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "records": records}


if __name__ == "__main__":
    main()
