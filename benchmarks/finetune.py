"""Full finetuning of models of 1.4 billion parameters on code fixing, as configs/codefix_*1.4b.yaml have it.

    python run.py collect trajectories/interactive --count 200     # on a machine with bubblewrap
    python benchmarks/finetune.py --devices 2                      # GPUs: about 2 minutes
    python benchmarks/finetune.py --devices 2 --strategies ddp     # every GPU has all of the weights and the optimizer
    python benchmarks/finetune.py --devices 2 --tiny               # CPU processes and tiny models, to try it

The weights are random, in the shape and the format of state-spaces/mamba-1.4b and EleutherAI/pythia-1.4b, and of the
tokenizer's 50,277 tokens only the bytes are used: what counts here is that steps of 8,192 tokens a device fit, and how
long they take, with weights and optimizer shared out over the devices (fsdp), or not (ddp). Prints a table and writes
results/benchmarks/finetune.json, where what was not measured again stays.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MambaConfig, MambaForCausalLM

from length_gen.lightning_modules.commands.arguments import Arguments
from length_gen.lightning_modules.commands.command_line import CLI
from length_gen.lightning_modules.reporting.measurements import Records, arguments

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()
STRATEGIES = {"fsdp": ["--config", str(ROOT / "configs/trainer/fsdp.yaml")], "ddp": ["--trainer.strategy", "ddp"]}
VOCABULARY = {"mamba1.4b": 50280, "pythia1.4b": 50304}
TOKENS = 50277
"""Of the tokenizer that both have."""


def main() -> None:
    """Finetune each model in processes that torchrun starts."""
    options = arguments(
        __doc__, "finetune", devices=2, models=VOCABULARY, strategies=(["fsdp"], ", ".join(STRATEGIES)),
        trajectories=("trajectories/interactive", "that collect wrote"),
        steps=(4, "of the optimizer, the first of which is not timed"),
        accumulate=(4, "rows of a step, for each device"), tiny=False,
        worker=(str, None))  # settings of a process that torchrun has started
    if options.worker:
        work(json.loads(options.worker))
        return
    records = Records(options.out, "cuda" if GPU else "cpu", ("what", "devices"))
    for name, strategy in itertools.product(options.models, options.strategies):
        with tempfile.TemporaryDirectory() as folder:
            pretrain(name, options.tiny, folder)
            result = Path(folder, "result.json")
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                       str(options.devices), __file__, "--worker",
                       json.dumps(vars(options) | {"name": name, "strategy": strategy, "folder": folder,
                                                   "result": str(result)})]
            subprocess.run(command, check=True, cwd=ROOT)
            records.add(json.loads(result.read_text()))
    records.show()


def pretrain(name: str, tiny: bool, folder: str) -> None:
    """Write a model of random weights, in bfloat16, and a tokenizer of bytes."""
    if name.startswith("mamba"):
        shape = {"hidden_size": 64, "num_hidden_layers": 2} if tiny else {"hidden_size": 2048, "num_hidden_layers": 48}
        make, config = MambaForCausalLM, MambaConfig(vocab_size=VOCABULARY[name], **shape)
    else:
        shape = ({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128} if tiny
                 else {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
                       "intermediate_size": 8192})
        make, config = GPTNeoXForCausalLM, GPTNeoXConfig(vocab_size=VOCABULARY[name], **shape)
    with torch.device("cuda" if GPU else "cpu"):
        model = make(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"unused {i}" for i in range(TOKENS - 256))]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(f"{folder}/tokenizer.json")


class Meter(Callback):
    """Seconds of each optimizer step, and losses."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step > len(self.times):
            self.times.append(time.perf_counter())
            self.losses.append(float(outputs["loss"]))  # waits for the device


def work(settings: dict[str, Any]) -> None:
    """One process of the finetuning; rank 0 writes the result."""
    row_length = 256 if settings["tiny"] else 8192
    arguments = ["--config", str(ROOT / f"configs/codefix_{settings['name']}.yaml"),
                 *STRATEGIES[settings["strategy"]], "--data.task.trajectories", settings["trajectories"],
                 "--data.task.tokenizer", settings["folder"], "--data.task.unsandboxed", "true",
                 "--model.backbone.name", settings["folder"],
                 "--data.batch_size", str(settings["devices"]), "--data.row_length", str(row_length),
                 "--trainer.devices", str(settings["devices"]), "--trainer.max_steps", str(settings["steps"]),
                 "--trainer.accumulate_grad_batches", str(settings["accumulate"]),
                 "--trainer.limit_val_batches", "0", "--trainer.logger", "false",
                 "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    if not GPU:
        arguments += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    cli = CLI("fit", Arguments(arguments))
    meter = Meter()
    cli.trainer.callbacks[:] = [meter]
    model = cli.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    cli.trainer.fit(model, datamodule=cli.datamodule)
    if cli.trainer.is_global_zero:
        seconds = (meter.times[-1] - meter.times[0]) / (len(meter.times) - 1)
        tokens = settings["accumulate"] * settings["devices"] * (row_length - 1)
        Path(settings["result"]).write_text(json.dumps({
            "what": settings["name"] + f", {settings['strategy']}" * (settings["strategy"] != "fsdp"),
            "devices": settings["devices"], "parameters": parameters,
            "rows of a step": settings["accumulate"] * settings["devices"], "row length": row_length,
            "seconds a step": seconds, "tokens/s": tokens / seconds,
            "peak GiB a device": torch.cuda.max_memory_allocated() / 2**30 if GPU else None,
            "first loss": meter.losses[0], "last loss": meter.losses[-1]}))


if __name__ == "__main__":
    main()
