"""Verification of long problems: seconds, tokens/s and memory by length, beside the recording of the trajectory alone.

    python benchmarks/verify.py                          # on a GPU, up to 1,000,000 digits: about 2 minutes
    python benchmarks/verify.py --lengths 10000000       # 350 million tokens
    python benchmarks/verify.py --small                  # on the CPU, up to 10,000 digits

A Mamba of 2 x 128 is trained on additions of at most 5 digits first; then one test problem of each length is verified
while it is recorded. `alternative` is the recording alone, which is as fast as verification can get with one process a
problem (left out above a million digits). --large times a Mamba of 24 x 768 (untrained, without stopping at its errors)
at 100,000 digits. --growth compares backbones of fixed and of growing memory at the same lengths. Writes
results/benchmarks/verify.json, or growth.json.
"""

import functools
import resource
import time

import torch
from models import trained

from length_gen.datamodules.recording import RecordedRows
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.backbones import LSTM, Mamba, Mistral, Pythia
from length_gen.lightning_modules.evaluation.verify import verify_streamed
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.reporting.measurements import Records, arguments

LONGEST = {"pythia": 10_000, "mistral": 100_000, "lstm": 100_000}
LONGEST_ON_CPU = {"pythia": 3_000, "mistral": 10_000}
"""Digits up to which --growth tries these: the time of the first grows with the square, the others are slow."""


def main() -> None:
    """Train a model, and verify problems of each length."""
    options = arguments(
        __doc__, lambda options: ("growth" if options.growth else "verify") + "_cpu" * options.small, lengths=[int],
        steps=(int, "of the training before"), seed=1, small=False, large=(False, "only the model of 24 x 768"),
        growth=(False, "only the comparison of backbones"))
    task, records = Addition(5), Records(options.out, "cuda" if torch.cuda.is_available() else "cpu", ("what",))

    def add(what: str, model: TrajectoryModel, length: int, record: bool = True, **settings) -> None:
        row = measure(model, task, length, record, **settings)
        row = {"what": what, "backbone": model.backbone.description, "length": length, "unit": "tokens/s",
               "alternative_name": "recording alone", "floor": row["alternative"], "seed": options.seed, **row}
        records.add(row)

    if options.large:
        model = trained(task, functools.partial(Mamba, n_layer=24, d_model=768), 0, 64, 1024)
        measure(model, task, 1000, False, stop_early=False)  # what is compiled at the first time
        for length in options.lengths or [100_000]:
            add(f"24 x 768, untrained, {length:,} digits", model, length, False, stop_early=False)
    elif options.growth:
        shape = {"n_layer": 2, "d_model": 64 if options.small else 128}
        for backbone in (Mamba, LSTM, Pythia, functools.partial(Mistral, window=64)):
            model = trained(task, functools.partial(backbone, **shape), 0, 64, 1024)
            measure(model, task, 1000, False, stop_early=False)  # what is compiled at the first time
            longest = (LONGEST_ON_CPU if options.small else LONGEST).get(model.backbone.description.split()[0], 10**6)
            for length in options.lengths or [100, 1_000, 3_000, 10_000, 100_000, 1_000_000]:
                if length <= longest:
                    add(f"{model.backbone.description}, untrained, {length:,} digits", model, length, False,
                        stop_early=False)
    else:
        rows, length, steps = (32, 512, 300) if options.small else (64, 1024, 300)
        width = 64 if options.small else 128
        begun = time.perf_counter()
        rate = 5e-3 if options.small else 3e-3
        model = trained(task, functools.partial(Mamba, n_layer=2, d_model=width, dt_min=0.1, dt_max=1.0),
                        options.steps if options.steps is not None else steps, rows, length, rate, options.seed)
        print(f"trained in {time.perf_counter() - begun:.0f} s")
        measure(model, task, 1000, False)  # what is compiled at the first time
        for digits in options.lengths or ([1_000, 10_000] if options.small else [10_000, 100_000, 1_000_000]):
            add(f"2 x {width}, seed {options.seed}, {digits:,} digits", model, digits, record=digits <= 10**6)
    records.show()


def measure(model: TrajectoryModel, task: Addition, length: int, record: bool, **settings) -> dict:
    """One verification of a test problem; `record`: time its recording alone, too."""
    problem = task.problem("test", 0, length, 0)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    outcome, = verify_streamed(model.backbone, task, [problem], model.vocabulary, **settings)
    seconds = time.perf_counter() - begun
    alone = None
    if record:
        begun = time.perf_counter()
        tokens = sum(len(block.ids) for block, in RecordedRows(task, [problem], model.vocabulary, 131_072, 1))
        alone = tokens / (time.perf_counter() - begun)
    memory = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else 0
    ours = outcome.tokens / seconds
    return {"ours": ours, "alternative": alone, "ratio": alone and ours / alone, "exact": outcome.exact,
            "first_error": outcome.first_error, "phase": outcome.phase, "tokens": outcome.tokens, "seconds": seconds,
            "device_mib": memory / 2**20, "host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


if __name__ == "__main__":
    main()
