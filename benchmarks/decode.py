"""One decoding step of a Mamba of 24 x 768 on a GPU: how long each kernel takes, and a step.

    python benchmarks/decode.py --rows 64 256 1024

Each kernel is timed over all layers, so that weights and states come from memory as they do in a step. Where a layer
can be three kernels (`mamba_layer`), a further line has the step with these, and its time a layer. It is for choosing
tiles (`lightning_modules.backbones.mamba_decode`); the numbers that count are those of benchmarks/rollout.py. `floor`
are the tokens/s at which weights are read once a step, and states read and written once, at the speed of a large
copy; `alternative` are the six kernels. Writes results/benchmarks/decode.json, where rows of other runs are kept.
"""

import time
from collections.abc import Callable

import torch
from models import copy_bandwidth, floor

from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.reporting.measurements import Records, arguments

LABELS = {"six": "six kernels a layer", "layer": "three kernels a layer"}
KERNELS = ("enter", "convolve", "select", "update", "leave", "add")


def main() -> None:
    """Time the kernels for each number of rows and types."""
    options = arguments(__doc__, "decode", rows=[64, 256, 1024], layers=24)
    from length_gen.lightning_modules.backbones import mamba_layer
    from length_gen.lightning_modules.backbones.mamba_decode import MambaDecoder

    model = Mamba(40, n_layer=options.layers, d_model=768).cuda().eval()
    records, bandwidth, device = Records(options.out, "cuda", ("what",)), copy_bandwidth(), torch.device("cuda")
    for rows in options.rows:
        for names in (("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float32", "float32")):
            weights, states = (getattr(torch, name) for name in names)
            tokens, six = torch.zeros(rows, dtype=torch.long, device=device), None
            lowest = floor(model, rows, *names, bandwidth)
            for kernels, way in (("six", None), ("layer", mamba_layer)):
                if way and not way.fits(model, rows, weights, states):
                    continue
                decoder = MambaDecoder(model, rows, weights, states, kernels=kernels)
                parts = [time_graph(work) / options.layers for work in works(decoder)]
                step = time_graph(lambda d=decoder, tokens=tokens: d.step(tokens))
                speed = rows / step * 1e6
                six = six or speed
                what = f"{rows:,} rows, {model.description}, weights {names[0]}, states {names[1]}, {LABELS[kernels]}"
                records.add({"what": what, "ours": speed, "alternative": six, "alternative_name": LABELS["six"],
                            "unit": "tokens/s", "ratio": speed / six, "floor": lowest, "step_us": step,
                            "layer_us": sum(parts), **({} if way else dict(zip(KERNELS, parts, strict=True)))})
    records.show()


def works(decoder) -> list[Callable[[], object]]:
    """What is timed: the kernels of a layer, each over all layers, or all layers together."""
    if decoder.whole:
        return [decoder.whole.step]
    return [lambda kernel=kernel: each_layer(decoder, kernel) for kernel in KERNELS]


def each_layer(decoder, kernel: str) -> None:
    """One of the six kernels, over all layers."""
    for i in range(len(decoder.layers)):
        decoder.run(kernel, i)


@torch.inference_mode()
def time_graph(work: Callable[[], object], repeats: int = 30) -> float:
    """Microseconds of one replay of what `work` launches, after 0.2 s of them, as in a rollout."""
    stream, graph = capture(work)
    with torch.cuda.stream(stream):
        begun = time.perf_counter()
        while time.perf_counter() - begun < 0.2:
            graph.replay()
            stream.synchronize()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            graph.replay()
        stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / repeats * 1000


def capture(work: Callable[[], object]) -> tuple[torch.cuda.Stream, torch.cuda.CUDAGraph]:
    """A stream, and a CUDA graph of what `work` launches, replayed once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
        graph.replay()
        stream.synchronize()
    return stream, graph


if __name__ == "__main__":
    main()
