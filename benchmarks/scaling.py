"""The same training and the same evaluation on 1..N devices: speed, efficiency, waiting, and whether it is the same.

    python benchmarks/scaling.py --devices 1 2 4                                        # CPU processes (gloo)
    python benchmarks/scaling.py --devices 1 2 --models mamba_130m pythia_paper         # GPUs (nccl)
    python benchmarks/scaling.py --devices 1 2 --models mamba_130m --what training --strategies ddp

For every model and number of devices, in processes that torchrun starts, of `--what`:
- training, by every strategy: the loss curve at a fixed total batch in float32, compared with that of one device;
  tokens/s with a fixed batch a device (weak scaling; 64 x 1024 tokens on GPUs, bf16) and with the same batch in all
  (strong), efficiency = tokens/s / (N x that of one device), the share of the time that collective operations run
  (overlapped with computing or not), and that spent in waiting for data;
- rollout and verify, shared out over the devices (one problem less than would be even), with an untrained model in
  setting `direct`, where nothing ends a row early; graphs: verification of logical graphs of very unequal lengths.
  Seconds, the largest share of them that a device waited for the others when it had done its problems, and whether
  the records are those of one device.

Prints a table and writes results/benchmarks/scaling.json, or scaling_cpu.json.
"""

import gc
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
from length_gen.lightning_modules.reporting.measurements import Records, arguments

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()


STRATEGIES = {"ddp": ["--trainer.strategy", "ddp"], "fsdp": ["--config", str(ROOT / "configs/trainer/fsdp.yaml")]}
TASKS = {"training": ("mult", ()), "rollout": ("mult", ("--data.task.setting", "direct", "--data.packed", "false")),
         "verify": ("mult", ("--data.task.setting", "direct", "--data.packed", "false")),
         "graphs": ("graph", ("--data.packed", "false"))}
"""What is measured: with which configuration, and changes of it."""

GRAPH = 40 if GPU else 8
"""Nodes of the logical graphs."""

COMMON = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary",
          "false", "--trainer.limit_val_batches", "0", "--model.schedule", "constant", "--trainer.log_every_n_steps",
          "1000"]


def main() -> None:
    """Run every model and number of devices, and all strategies of one in the same processes."""
    options = arguments(
        __doc__, f"scaling{'' if GPU else '_cpu'}", devices=[1, 2],
        models=(["mamba_130m" if GPU else "tiny"], "tiny, or the name of a file in configs/model/"),
        strategies=(["ddp", "fsdp"], ", ".join(STRATEGIES)), what=dict.fromkeys(TASKS),
        rows=(64 if GPU else 4, "of a device's batch"), row_length=1024 if GPU else 768,
        steps=(20, "that are timed"), curve_steps=(10 if GPU else 20, "of the loss curve"),
        length=(1000 if GPU else 30, "of the problems of rollout and verify"),
        worker=(str, None))  # settings of a process that torchrun has started
    if options.worker:
        work(json.loads(options.worker))
        return
    if unknown := set(options.strategies) - STRATEGIES.keys():
        raise SystemExit(f"--strategies {' '.join(unknown)}: expected {', '.join(STRATEGIES)}")
    if options.devices[0] != 1 or (GPU and max(options.devices) > torch.cuda.device_count()):
        raise SystemExit(f"--devices {options.devices}: the first must be 1; {torch.cuda.device_count()} GPUs are here")
    records = Records(options.out, "cuda" if GPU else "cpu", rows_a_device=options.rows, row_length=options.row_length,
                      seed=42)
    for model in options.models:
        one = None
        for devices in options.devices:
            strategies = options.strategies if devices > 1 else ["alone"]
            result = launch(vars(options) | {"model": model, "strategies": strategies, "devices": devices,
                                             "problems": max(options.devices) * 32 - 1 if GPU else 13})
            one = one or result
            for name in strategies if "training" in options.what else ():
                records.add({"what": f"{model}, {name}", "devices": devices}
                            | compare(result["training"][name], one["training"]["alone"], devices))
            for name in [name for name in options.what if name != "training"]:
                records.add({"what": f"{model}, {name}", "devices": devices} | beside(result[name], one[name]))
    records.show()


def launch(settings: dict[str, Any]) -> dict[str, Any]:
    """Run `work` on every device and return what it found."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                   str(settings["devices"]), __file__, "--worker", json.dumps(settings | {"result": file.name})]
        subprocess.run(command, check=True, cwd=ROOT)
        return json.loads(Path(file.name).read_text())


def compare(result: dict[str, Any], one: dict[str, Any], devices: int) -> dict[str, Any]:
    """Columns of a training beside that of one device."""
    speed = one["weak"]["speed"]
    row = {"tokens/s": round(result["weak"]["speed"]), "efficiency": result["weak"]["speed"] / devices / speed}
    if "strong" in result:
        row |= {"strong: tokens/s": round(result["strong"]["speed"]),
                "strong: efficiency": result["strong"]["speed"] / devices / speed,
                "strong: in communication": result["strong"]["communication"]}
    return row | {"in communication": result["weak"]["communication"], "waiting for data": result["weak"]["data_wait"],
                  "GiB": result["weak"]["memory"], "largest loss difference": max(
                      abs(a - b) for a, b in zip(result["losses"], one["losses"], strict=True))}


def beside(result: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """Columns of an evaluation beside that of one device."""
    return {"problems": sum(record["problems"] for record in result["records"]), "seconds": result["seconds"],
            "x one device": one["seconds"] / result["seconds"], "waited": result["waited"],
            "same records": result["records"] == one["records"]}


def work(settings: dict[str, Any]) -> None:
    """One process of one measurement; rank 0 writes the result."""
    result: dict[str, Any] = {}
    for what in settings["what"]:
        if what == "training":
            result[what] = {strategy: training(settings | {"strategy": strategy})
                            for strategy in settings["strategies"]}
        else:
            result[what] = evaluation(settings, what)
        gc.collect()
    if not dist.is_initialized() or dist.get_rank() == 0:
        Path(settings["result"]).write_text(json.dumps(result))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def parts(settings: dict[str, Any], what: str, *more: str, callbacks: tuple[Callback, ...] = ()):
    """The model, the data and the trainer of a configuration, with no callbacks but the given."""
    task, changes = TASKS[what]
    configs = [str(ROOT / f"configs/{task}.yaml")]
    if settings["model"] != "tiny":
        configs.append(str(ROOT / f"configs/model/{settings['model']}.yaml"))
    if GPU:
        configs.append(str(ROOT / "configs/trainer/gpu.yaml"))
    strategy = STRATEGIES.get(settings.get("strategy"), [])
    arguments = [*(part for config in configs for part in ("--config", config)), *strategy, *COMMON,
                 "--trainer.accelerator", "gpu" if GPU else "cpu", "--trainer.devices", str(settings["devices"]),
                 "--data.row_length", str(settings["row_length"]), *changes, *more]
    cli = CLI("fit", Arguments(arguments))
    cli.trainer.callbacks[:] = callbacks
    return cli.model, cli.datamodule, cli.trainer


def training(settings: dict[str, Any]) -> dict[str, Any]:
    """Losses, and speed where every device has its own batch (weak), and where all share one (strong)."""
    result = {"losses": curve(settings), "weak": speed(settings, settings["rows"] * settings["devices"])}
    if settings["devices"] > 1:
        result["strong"] = speed(settings, settings["rows"])
    return result


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
    model, data, trainer = parts(settings, "training", "--data.batch_size", "8", "--trainer.precision", "32-true",
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


def speed(settings: dict[str, Any], rows: int) -> dict[str, float]:
    """Tokens/s of all devices, which share so many rows a step, the shares of communication and of waiting for data,
    and GiB of a GPU's memory at most."""
    warmup = 5
    clock = Clock(warmup, settings["steps"])
    if GPU:
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    model, data, trainer = parts(settings, "training", "--data.batch_size", str(rows), "--trainer.max_steps",
                                 str(warmup + settings["steps"] + Clock.profiled), callbacks=(clock,))
    trainer.fit(model, datamodule=data)
    return clock.result | {"memory": torch.cuda.max_memory_allocated() / 2**30 if GPU else None}


def evaluation(settings: dict[str, Any], what: str) -> dict[str, Any]:
    """Seconds of an evaluation whose problems the devices share, the largest share of them that one waited, records."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    lightning.seed_everything(42)
    model, data, trainer = parts(settings, what)
    if world < settings["devices"]:  # no training has made them a group
        trainer.strategy.setup_environment()
        rank, world = dist.get_rank(), dist.get_world_size()
    if GPU:
        torch.cuda.set_device(rank)
    model.to(torch.device("cuda", rank) if GPU else "cpu")
    length = GRAPH if what == "graphs" else settings["length"]
    for _ in range(2):  # the first time compiles and captures
        if dist.is_initialized():
            dist.barrier()
        begun, done = time.perf_counter(), []
        records = list(evaluate(model.backbone, data, [length], lambda length: settings["problems"],
                                "rollout" if what == "rollout" else "verify", "validation", 64, rank, world,
                                watch=lambda *_: done.append(time.perf_counter())))  # noqa: B023 (called at once)
        seconds = time.perf_counter() - begun
        waited = [1 - (done[-1] - begun) / seconds]
        if dist.is_initialized():
            dist.all_gather_object(everyone := [0.0] * world, waited[0])
            waited = everyone
    return {"seconds": seconds, "waited": max(waited), "records": records}


if __name__ == "__main__":
    main()
