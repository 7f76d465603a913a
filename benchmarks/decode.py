"""One decoding step of a Mamba of 24 x 768 on a GPU: which tiles suit each kernel, and how long a whole step takes.

    python benchmarks/decode.py --rows 64 256 1024 --tune

With --tune every kernel is timed alone, over all layers (so that weights and states come from memory as in a step),
with several tiles; the fastest belong into `lightning_modules.backbones.mamba_decode.plan`. Prints only; the numbers
that count are those of benchmarks/rollout.py.
"""

import argparse
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from lightning_modules.backbones import Mamba
from lightning_modules.backbones.mamba_decode import MambaDecoder, Tiles, plan

CHOICES = {
    "inwards": [Tiles(16, 64, 128), Tiles(64, 32, 128), Tiles(64, 64, 64), Tiles(64, 64, 128), Tiles(64, 128, 64),
                Tiles(128, 64, 64), Tiles(128, 128, 64, 8), Tiles(128, 128, 64), Tiles(128, 256, 64, 8)],
    "convolve": [Tiles(16, 128, 64), Tiles(16, 256, 64), Tiles(16, 256, 128), Tiles(16, 512, 64), Tiles(32, 256, 64),
                 Tiles(32, 256, 64, 8), Tiles(64, 256, 64, 8)],
    "update": [Tiles(16, 16, 0), Tiles(16, 32, 0), Tiles(16, 32, 0, 8), Tiles(16, 64, 0, 8), Tiles(32, 16, 0),
               Tiles(32, 32, 0, 8), Tiles(64, 16, 0, 8)],
    "outwards": [Tiles(16, 32, 128), Tiles(16, 32, 256), Tiles(32, 32, 128), Tiles(64, 32, 128), Tiles(64, 64, 64),
                 Tiles(64, 64, 128), Tiles(128, 64, 64), Tiles(128, 128, 64, 8)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    model = Mamba(40, n_layer=options.layers, d_model=768).cuda().eval()
    console = Console(width=150)
    for rows in options.rows:
        best = plan(rows)
        if options.tune:
            table = Table("kernel", "microseconds a layer: rows x columns x depth, warps", title=f"{rows} rows")
            for name, choices in CHOICES.items():
                times = {tiles: time_kernel(model, rows, replace(best, **{name: tiles}), name) for tiles in choices}
                order = sorted(times, key=times.get)
                best = replace(best, **{name: order[0]})
                table.add_row(name, "  ".join(f"{times[t]:.1f}: {t.rows}x{t.columns}x{t.depth},{t.warps}"
                                              for t in order if times[t] < float("inf")))
            console.print(table)
        table = Table("rows", "weights", "states", "microseconds a step", "tokens/s")
        for weights, states in ((torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32),
                                (torch.float32, torch.float32)):
            tokens = torch.zeros(rows, dtype=torch.long, device="cuda")
            decoder = MambaDecoder(model, rows, weights, states, best)
            spent = time_graph(lambda decoder=decoder, tokens=tokens: decoder.step(tokens))
            table.add_row(f"{rows}", str(weights)[6:], str(states)[6:], f"{spent:.0f}", f"{rows / spent * 1e6:,.0f}")
        console.print(table)


@torch.inference_mode()
def time_kernel(model: Mamba, rows: int, tiles, name: str) -> float:
    """Microseconds a layer of one kernel; infinite if it cannot run with these tiles."""
    decoder = MambaDecoder(model, rows, torch.bfloat16, torch.bfloat16, tiles)
    for buffer in (decoder.hidden, decoder.xz, decoder.u, decoder.y, decoder.partial):
        buffer.normal_()

    def layers() -> None:
        for i, layer in enumerate(decoder.layers):
            decoder.run(name, layer, decoder.recent[i], decoder.state[i])

    try:
        return time_graph(layers) / len(decoder.layers)
    except Exception as error:  # out of shared memory or registers
        print(f"{name} {getattr(tiles, name)}: {str(error)[:100]}")
        return float("inf")


@torch.inference_mode()
def time_graph(work, repeats: int = 30) -> float:
    """Microseconds of one replay of what `work` launches."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
        graph.replay()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            graph.replay()
        stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / repeats * 1000


if __name__ == "__main__":
    main()
