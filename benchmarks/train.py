"""Training speed: this suite's loop and `run.py fit` beside the bare loop on the library's own model.

    python benchmarks/train.py                       # paper scale, 64 x 1024 packed, bf16, on a GPU: about 4 minutes
    python benchmarks/train.py --small               # small shapes on the CPU, to try the benchmark
    python benchmarks/train.py --only mamba --no_fit

`ours` is LightningModule.losses, clipping and AdamW as `fit` takes them; `alternative` is forward, cross-entropy,
backward, clipping and a fused AdamW on the model of mamba-ssm, transformers or torch.nn with the same shape, on the
same rows, in turns in one process. Rows "through run.py fit" have the data pipeline, Lightning and logging in them.
Prints each row as it is measured, and
writes results/benchmarks/train.json after each, where the rows that were not measured again stay, with their commits.
"""

import argparse
import contextlib
import functools
import gc
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.backbones import GRU, LSTM, Mamba, Mamba2, Mistral, Pythia
from length_gen.lightning_modules.model import IGNORED, TrajectoryModel, masked_targets
from length_gen.lightning_modules.reporting.measurements import Records, arguments

ROOT = Path(__file__).parent.parent
FLOOR, MAMBA_FLOOR = 0.95, 1.5


@dataclass(frozen=True)
class Shape:
    """Sizes of a run: rows x length tokens a step; of the models, n_layer and d_model."""

    rows: int
    length: int
    layers: dict[str, int]
    width: int
    recurrent_width: int


PAPER = Shape(64, 1024, {"mamba": 24, "mamba2": 24, "pythia": 24, "mistral": 8, "lstm": 4, "gru": 4}, 768, 1536)
SMALL = Shape(2, 256, dict.fromkeys(PAPER.layers, 2), 64, 64)


class Loop:
    """Training steps on fixed batches: `loss` of a batch, backward, clipping, optimizer."""

    def __init__(self, parameters, optimizer: torch.optim.Optimizer, loss: Callable[[dict[str, Tensor]], Tensor],
                 batches: list[dict[str, Tensor]]) -> None:
        self.parameters, self.optimizer, self.loss, self.batches = list(parameters), optimizer, loss, batches
        self.device = batches[0]["tokens"].device
        self.count, self.steps = 0, 1
        self.tokens = batches[0]["tokens"].shape[0] * (batches[0]["tokens"].shape[1] - 1)

    def run(self, steps: int) -> float:
        """Seconds that they take, the device's work included."""
        begun = self._now()
        for _ in range(steps):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                loss = self.loss(self.batches[self.count % len(self.batches)])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.count += 1
        return self._now() - begun

    def warm_up(self, seconds: float) -> None:
        """Compile and tune what there is, then find how many steps fill `seconds`."""
        self.run(3)
        self.steps = max(1, round(seconds / (self.run(2) / 2)))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def speeds(loops: list[Loop], seconds: float, rounds: int = 3) -> list[float]:
    """Tokens a second of each loop, the median of some rounds in turns."""
    for loop in loops:
        loop.warm_up(seconds / rounds)
    rates = [[loop.steps * loop.tokens / loop.run(loop.steps) for loop in loops] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*rates, strict=True)]


class Bench:
    """All measurements of one shape on one device; rows are printed and kept as they are measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.shape = SMALL if options.small else PAPER
        self.device = torch.device("cuda" if torch.cuda.is_available() and not options.small else "cpu")
        self.seconds = options.seconds
        self.data = TrajectoryDataModule(Addition(5, "local"), self.shape.rows, row_length=self.shape.length,
                                         num_workers=0)
        self.batches = self._batches(4)
        self.records = Records(options.out, self.device, ("what",), batch=f"{self.shape.rows} x {self.shape.length}",
                               precision="bf16 autocast" if self.device.type == "cuda" else "float32")

    def _batches(self, count: int) -> list[dict[str, torch.Tensor]]:
        """Batches of exactly the shape, of rows that a training has."""
        rows = {"tokens": torch.empty(0, self.shape.length + 1, dtype=torch.int64),
                "kinds": torch.empty(0, self.shape.length + 1, dtype=torch.uint8)}
        for batch in self.data.train_dataloader():
            if batch["tokens"].shape[1] == self.shape.length + 1:
                rows = {name: torch.cat([rows[name], batch[name]]) for name in rows}
            if len(rows["tokens"]) >= count * self.shape.rows:
                break
        return [{name: part[i * self.shape.rows : (i + 1) * self.shape.rows].to(self.device)
                 for name, part in rows.items()} for i in range(count)]

    def backbone(self, name: str) -> Callable[[int], nn.Module]:
        """Constructor of this suite's backbone of a name, in the benchmark's shape; it takes the size of the
        vocabulary."""
        layers, width = self.shape.layers[name], self.shape.width
        return {"mamba": functools.partial(Mamba, n_layer=layers, d_model=width),
                "mamba2": functools.partial(Mamba2, n_layer=layers, d_model=width, d_state=128, head_dim=64),
                "pythia": functools.partial(Pythia, n_layer=layers, d_model=width, d_inner=2 * width, n_head=8),
                "mistral": functools.partial(Mistral, n_layer=layers, d_model=width, d_inner=2 * width, n_head=8,
                                             window=self.shape.length // 2),
                "lstm": functools.partial(LSTM, n_layer=layers, d_model=self.shape.recurrent_width),
                "gru": functools.partial(GRU, n_layer=layers, d_model=self.shape.recurrent_width)}[name]

    def ours(self, name: str) -> Loop:
        """This suite's loop."""
        torch.manual_seed(0)
        model = TrajectoryModel(self.backbone(name), self.data.vocabulary, schedule="constant").to(self.device)
        optimizer = model.configure_optimizers()["optimizer"]
        return Loop(model.parameters(), optimizer, lambda batch: model.losses(batch)[0], self.batches)

    def alternative(self, name: str) -> tuple[str, Loop]:
        """Name of the library's model and its bare loop; raises ImportError where the library is missing."""
        torch.manual_seed(0)
        title, net, logits = ALTERNATIVES[name](self, self.shape.layers[name])
        net.to(self.device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.95),
                                      fused=self.device.type == "cuda")

        def loss(batch: dict[str, Tensor]) -> Tensor:
            targets = masked_targets(batch["tokens"], batch["kinds"])
            return F.cross_entropy(logits(net, batch["tokens"][:, :-1]).float().flatten(0, 1), targets.flatten(),
                                   ignore_index=IGNORED)

        return title, Loop(net.parameters(), optimizer, loss, self.batches)

    def compare(self, name: str) -> None:
        """Measure this suite's loop beside the bare loop on the library's model, if that is installed."""
        try:
            title, other = self.alternative(name)
        except ImportError as error:
            print(f"{name}: nothing to compare with: {error}")
            title, other = "not installed", None
        own = self.ours(name)
        if other is not None:  # a bare loop on other shapes would be no comparison
            sizes = [sum(p.numel() for p in loop.parameters) for loop in (own, other)]
            assert abs(sizes[0] - sizes[1]) < 0.03 * sizes[1], f"{name}: {sizes[0]:,} and {sizes[1]:,} parameters"
        rates = speeds([own, other] if other else [own], self.seconds)
        self.row(f"{name}, losses and AdamW", rates[0], rates[1] if other else None, title,
                 MAMBA_FLOOR if name == "mamba" else FLOOR)

    def fit(self, name: str, steps: int) -> None:
        """Tokens a second of `run.py fit` as it logs them, without its first steps."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        from length_gen.lightning_modules.commands.main import main as run

        configs = [ROOT / "configs/add.yaml", ROOT / "configs/model" / OVERLAYS[name]]
        if self.device.type == "cuda":
            configs.append(ROOT / "configs/trainer/gpu.yaml")
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["fit", *(part for config in configs for part in ("--config", str(config))),
                         "--trainer.logger.save_dir", folder, "--trainer.max_steps", str(steps),
                         "--trainer.log_every_n_steps", str(max(1, steps // 4)), "--trainer.devices", "1",
                         "--trainer.limit_val_batches", "0", "--evaluation.lengths", "[1]", "--evaluation.problems",
                         "1", "--evaluation.problems_at_longest", "1", "--evaluation.evaluators", "[verify]",
                         "--evaluation.validation_lengths", "[]", "--trainer.enable_progress_bar", "false",
                         "--trainer.enable_model_summary", "false"]
            if self.shape is SMALL:
                arguments += ["--model.backbone.n_layer", "2", "--model.backbone.d_model", str(self.shape.width),
                              "--data.batch_size", str(self.shape.rows), "--data.row_length", "256",
                              "--trainer.accelerator", "cpu"]
            with open(Path(folder) / "output", "w") as output, contextlib.redirect_stdout(output):
                run(arguments)
            events = EventAccumulator(str(next(Path(folder).glob("*/*/events*"))))
            events.Reload()
            rates = [event.value for event in events.Scalars("train/tokens_per_second")]
        alternative = next((row for row in self.records if row["what"] == f"{name}, losses and AdamW"), None)
        self.row(f"{name}, through run.py fit", statistics.median(rates[-2:]),
                 alternative and alternative["alternative"], alternative["alternative_name"] if alternative else "",
                 MAMBA_FLOOR if name == "mamba" else FLOOR)

    def row(self, what: str, ours: float, alternative: float | None, name: str, floor: float | None) -> None:
        """Print a row, and write it to the file, in the place of an earlier one of the same name."""
        self.records.add({"what": what, "ours": ours, "alternative": alternative, "alternative_name": name,
                          "unit": "tokens/s", "ratio": ours / alternative if alternative else None, "floor": floor})

    def free(self) -> None:
        """Give memory of what was measured back."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def mamba_ssm_model(bench: Bench, layers: int, layer: str):
    """mamba-ssm's own model; on the CPU, where it does not run, transformers'."""
    size, width = len(bench.data.vocabulary), bench.shape.width
    if bench.device.type == "cpu":
        extra = {} if layer == "Mamba1" else {"head_dim": 64, "num_heads": 2 * width // 64, "n_groups": 1,
                                              "state_size": 128, "tie_word_embeddings": True}
        return transformers_model("Mamba" if layer == "Mamba1" else "Mamba2", vocab_size=size, hidden_size=width,
                                  num_hidden_layers=layers, **extra)
    config = importlib.import_module("mamba_ssm.models.config_mamba").MambaConfig(
        d_model=width, n_layer=layers, vocab_size=size, ssm_cfg={"layer": layer})
    net = importlib.import_module("mamba_ssm.models.mixer_seq_simple").MambaLMHeadModel(config)
    return f"mamba-ssm {layer} MambaLMHeadModel", net, lambda net, tokens: net(tokens).logits


def transformers_model(name: str, **config):
    """Name, model and logits(model, tokens) of a causal language model of transformers; raises ImportError without
    it."""
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    net = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**config))
    return f"transformers {name}", net, lambda net, tokens: net(tokens, use_cache=False).logits


def attention_model(bench: Bench, layers: int, name: str):
    """The same for one with attention, of the benchmark's shape."""
    width, extra = bench.shape.width, {}
    if name == "Mistral":
        extra = {"num_key_value_heads": 8, "sliding_window": bench.shape.length // 2}
    return transformers_model(name, vocab_size=len(bench.data.vocabulary), hidden_size=width,
                              num_hidden_layers=layers, intermediate_size=2 * width, num_attention_heads=8,
                              attn_implementation="sdpa", **extra)


def recurrent_model(bench: Bench, layers: int, cell: type[nn.RNNBase]):
    """The same for an LSTM or GRU of torch.nn, between an embedding and a head."""
    size, width = len(bench.data.vocabulary), bench.shape.recurrent_width
    net = nn.ModuleList([nn.Embedding(size, width), cell(width, width, layers, batch_first=True),
                         nn.Linear(width, size)])
    return f"torch.nn {cell.__name__}", net, lambda net, tokens: net[2](net[1](net[0](tokens))[0])


ALTERNATIVES = {
    "mamba": functools.partial(mamba_ssm_model, layer="Mamba1"),
    "mamba2": functools.partial(mamba_ssm_model, layer="Mamba2"),
    "pythia": functools.partial(attention_model, name="GPTNeoX"),
    "mistral": functools.partial(attention_model, name="Mistral"),
    "lstm": functools.partial(recurrent_model, cell=nn.LSTM),
    "gru": functools.partial(recurrent_model, cell=nn.GRU)}
OVERLAYS = {"mamba": "mamba_130m.yaml", "mamba2": "mamba2_130m.yaml", "pythia": "pythia_paper.yaml",
            "mistral": "mistral_paper.yaml", "lstm": "lstm_paper.yaml", "gru": "gru_paper.yaml"}


def main() -> None:
    """Measure what was asked for, what matters most first."""
    options = arguments(
        __doc__, lambda options: f"train{'_cpu' if options.small else ''}", only=ALTERNATIVES,
        small=(False, "small shapes on the CPU"), seconds=(4.0, "of each loop's measurement"),
        no_fit=(False, "leave out run.py fit"), fit_steps=24)
    bench = Bench(options)
    for name in options.only:
        works = [functools.partial(bench.compare, name)]
        if not options.no_fit:
            works.append(functools.partial(bench.fit, name, options.fit_steps))
        for work in works:
            try:
                work()
            except (Exception, SystemExit) as error:  # one row must not cost the others
                print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
            bench.free()
    bench.records.show()


if __name__ == "__main__":
    main()
