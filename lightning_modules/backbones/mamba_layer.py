"""A layer of one decoding step of Mamba as three CUDA kernels that overlap (mamba_layer.cu).

With hundreds of rows a step is bound by memory, and by what stands between one kernel and the next: its launch, its
first weights, its last writes. Here the norm, the convolution, the projections of the step size and the residual are
parts of the kernels before or after them, and a kernel is launched while the one before still runs: by the time it may
read what that one has written, its first weights and its states are in shared memory. More than FEW_ROWS rows are in
two parts on streams of their own, which keep step: the products of both, one after the other, and then the states of
both.

Two runs give the same bits: what several blocks have parts of is added up in one order. How its tiles were chosen, and
what was tried: docs/performance.md.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from length_gen.lightning_modules.backbones import cuda_kernels

BF16 = torch.bfloat16

SIZE = 16
"""States of a channel."""

TAPS = 4
"""Width of the convolution."""

TILE = 64
"""Rows of a product of four warps, and of a block of what it reads."""

UPDATE_ROWS = 8
"""Rows of a block of `update`."""

TERMS = 64
"""Terms of a block of a product."""

CAPABILITY = 9, 0
"""Of the GPU: wgmma is of that alone."""

FEW_ROWS = 256
"""Rows up to which small tiles are the faster ones (24 x 768)."""

MANY_ROWS = 768
"""With more rows x's tiles are as large as z's: its parts then fill a GPU so (24 x 768)."""

MOST_SHARED = 227 * 1024
"""Bytes of shared memory that a block can have."""

MOST_PARTS = 16
"""Blocks that may have parts of the selection: `update` has their numbers in registers."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the kernels divide their work; mamba_layer.cu says what each number is.

    parts: of the rows, that are under way at once, each with kernels of its own
    """

    rows_x: int
    rows_z: int
    columns_in: int
    stages_in: int
    rows_out: int
    columns_out: int
    stages_out: int
    split: int
    channels: int
    parts: int


def tiles(rows: int, width: int, inner: int) -> Tiles | None:
    """The tiles for so many rows, a stream and an inside so wide, as measured (24 x 768); None where there are none."""
    few = rows <= FEW_ROWS
    columns_in, columns_out, channels = (next((n for n in choices if size % n == 0), 0) for size, choices in (
        (inner, (96, 64) if few else (192, 96, 64)), (width, (64,) if few else (96, 64)), (inner, (192, 128, 64))))
    if not (columns_in and columns_out and channels) or width % TERMS or inner % TERMS:
        return None
    split = max(n for n in ((1, 2, 4) if few else (1, 2)) if inner // TERMS % n == 0)
    if few:
        return Tiles(64, 64, columns_in, 6, 64, columns_out, 6, split, channels, 1)
    return Tiles(128 if rows > MANY_ROWS else 64, 128, columns_in, 4, 128, columns_out, 4, split, channels, 2)


def takes(backbone, rows: int, weights: torch.dtype, states: torch.dtype) -> bool:
    """Whether the kernels are written for this shape and these types."""
    mixer = backbone.backbone["layers"][0].mixer
    shape = tiles(rows, backbone.lm_head.in_features, mixer.d_inner)
    return (rows > 0 and weights == BF16 and states in (BF16, torch.float32) and mixer.d_state == SIZE
            and mixer.d_conv == TAPS and mixer.dt_rank % 8 == 0 and mixer.dt_rank + 2 * SIZE <= 256
            and shape is not None and mixer.d_inner // shape.columns_in <= MOST_PARTS
            and max(shared_bytes(definitions(backbone, rows, states)).values()) <= MOST_SHARED)


def fits(backbone, rows: int, weights: torch.dtype, states: torch.dtype) -> bool:
    """Whether the kernels take this Mamba on the GPU that it is on, and can be compiled: they are faster than six."""
    device = backbone.lm_head.weight.device
    return (takes(backbone, rows, weights, states) and device.type == "cuda"
            and cuda_kernels.compiler() and _device_runs(device, **definitions(backbone, rows, states)))


@functools.cache
def _device_runs(device: torch.device, **defined: int | str) -> bool:
    """Kept, also that it does not: the compiler is not asked again for every decoder."""
    if torch.cuda.get_device_capability(device) != CAPABILITY:
        return False
    try:
        with torch.cuda.device(device):
            kernels(device.index, **defined)
        return True
    except Exception as error:  # a cuda.core whose compiler does not know the GPU
        text = " ".join(str(error).split())[:200]
        warnings.warn(f"the kernels for a layer of a step cannot be compiled ({type(error).__name__}: {text}): "
                      f"decoding of many rows is slower", stacklevel=5)
        return False


def definitions(backbone, rows: int, states: torch.dtype, shape: Tiles | None = None) -> dict[str, int | str]:
    """What mamba_layer.cu leaves open: names that it asks for, and their values."""
    mixer, width = backbone.backbone["layers"][0].mixer, backbone.lm_head.in_features
    shape = shape or tiles(rows, width, mixer.d_inner)
    divided = {name.upper(): value for name, value in asdict(shape).items() if name != "parts"}
    return {"WIDTH": width, "INNER": mixer.d_inner, "RANK": mixer.dt_rank, "STATE_BYTES": states.itemsize,
            "EPS": f"{float(backbone.backbone['norm_f'].eps):e}f"} | divided


def shared_bytes(defined: dict[str, int | str]) -> dict[str, int]:
    """Bytes of shared memory of a block of each kernel, as mamba_layer.cu's structs have it."""
    columns, selected, channels = defined["COLUMNS_IN"], defined["RANK"] + 2 * SIZE, defined["CHANNELS"]
    rows_out = defined["ROWS_OUT"]
    of_x, of_z = (2 * TERMS * defined["STAGES_IN"] * (defined[rows] + columns) for rows in ("ROWS_X", "ROWS_Z"))
    of_x += 2 * TERMS * selected * -(-columns // TERMS) + 4 * 5 * columns
    enter = max(of_x, of_z) + 8 * (2 * defined["STAGES_IN"] + 1 + columns // 32)
    update = UPDATE_ROWS * (channels * SIZE * defined["STATE_BYTES"] + 8
                            + 4 * ((-(-defined["RANK"] // 16) + 2) // 4 * 64 + 16) + 8 * SIZE + 4 * (channels + 4)
                            + 4 * channels)
    given = (defined["SPLIT"] - 1) * defined["COLUMNS_OUT"] // defined["SPLIT"] * rows_out * 4
    leave = (2 * TERMS * defined["STAGES_OUT"] * (rows_out + defined["COLUMNS_OUT"]) + max(given, 16)
             + 16 * defined["STAGES_OUT"])
    return {"enter": enter, "update": -(-update // 16) * 16, "leave": leave}


def products(columns: set[int], selected: int) -> str:
    """wgmma of 64 rows and 16 terms as functions of mamba_layer.cu: for so many columns, and for the selection's, whose
    left side is in registers."""
    shared, registers = "unsigned long long a", "unsigned a0, unsigned a1, unsigned a2, unsigned a3"
    code = [f"template <int N> DEVICE void product(float (&d)[N / 2], {left}, unsigned long long b);"
            for left in (shared, registers)]
    for n, left in (*((n, shared) for n in sorted(columns)), (selected, registers)):
        d = n // 2
        numbers, variables = (", ".join(pattern.format(i) for i in range(d)) for pattern in ("%{}", '"+f"(d[{}])'))
        if left == shared:
            sides, flags, given = f"%{d}, %{d + 1}", "1, 1, 1, 0, 0", '"l"(a)'
        else:
            sides = f"{{%{d}, %{d + 1}, %{d + 2}, %{d + 3}}}, %{d + 4}"
            flags, given = "1, 1, 1, 0", '"r"(a0), "r"(a1), "r"(a2), "r"(a3)'
        code.append(f"template <> DEVICE void product<{n}>(float (&d)[{d}], {left}, unsigned long long b) {{\n"
                    f"    asm volatile(\"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{{numbers}}}, {sides}, "
                    f"{flags};\"\n                 : {variables} : {given}, \"l\"(b));\n}}")
    return "\n".join(code) + "\n"


def used(defined: dict[str, int | str]) -> tuple[set[int], int]:
    """Columns of the products that mamba_layer.cu has with these definitions, and columns of the selection."""
    inwards = {defined["COLUMNS_IN"] * rows // 128 for rows in (defined["ROWS_X"], defined["ROWS_Z"])}
    return inwards | {defined["COLUMNS_OUT"]}, defined["RANK"] + 2 * SIZE


def kernels(device: int, **defined: int | str) -> dict:
    """The kernels by name for a device, the current one, and the definitions."""
    names = "enter", "update", "leave"
    code = products(*used(defined))
    found = cuda_kernels.kernels(device, "mamba_layer.cu", names, "90a", code=code, **defined)
    for name, size in shared_bytes(defined).items():
        cuda_kernels.allow_shared_memory(found[name], size, device)
    return found


class MambaLayers:
    """The layers' weights as the kernels read them, and what the kernels leave for each other.

    recent: bfloat16, of `recent_inputs`, state: [n_layer, rows, D, N], clock: [1] int32, changed in place
    stream: [padded * W] bfloat16, in blocks (`blocks`), hidden: [rows, W] float32, squares: [2, padded, parts] float32:
            before a step the embedding, twice, and the sums of its squares in the first part of squares[0]; after it,
            in `hidden` and squares[1], what the head needs: there the parts are those of a row's sum
    launch: runs a kernel of a name with this grid, cluster and numbers, where it is not a GPU that does

    Raises ValueError where a GPU should, and has not the compute capability.
    """

    def __init__(self, backbone, rows: int, recent: Tensor, state: Tensor, clock: Tensor,
                 launch: Callable[[str, tuple, tuple, list[int]], None] | None = None,
                 shape: Tiles | None = None) -> None:
        layers = backbone.backbone["layers"]
        mixer, width, device = layers[0].mixer, backbone.lm_head.in_features, state.device
        inner, self.device = mixer.d_inner, device
        shape = shape or tiles(rows, width, inner)
        most = max(shape.rows_x, shape.rows_z, shape.rows_out)
        padded = -(-rows // most) * most

        def zeros(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.weights = [torch.stack(parts).contiguous()
                        for parts in zip(*(pack(layer.norm, layer.mixer, shape) for layer in layers), strict=True)]
        inwards, select, steps, outwards, small = self.weights
        self.stream, self.hidden = zeros(padded * width, dtype=BF16), zeros(rows, width)
        self.squares = zeros(2, padded, width // shape.columns_out * shape.split)
        self.u, self.gate, self.y = (zeros(padded, inner, dtype=BF16) for _ in range(3))
        selected = mixer.dt_rank + 2 * SIZE
        self.partials = zeros(inner // shape.columns_in, rows, selected)
        self.recent, self.state, self.clock = recent, state, clock
        sums = self.squares.shape[2]

        def part(begin: int, end: int) -> tuple[int, dict[str, tuple]]:
            """Rows, and grid, cluster and addresses of each kernel."""
            count = end - begin
            given = {
                "enter": ((inwards, 0), (select, 0), (small, 0), (self.stream, width), (self.squares, sums),
                          (recent.permute(0, 3, 4, 1, 2, 5), 32), (clock, 0), (self.u, inner), (self.gate, inner),
                          (self.partials, selected)),
                "update": ((steps, 0), (small, 0), (self.partials, selected), (self.u, inner), (self.gate, inner),
                           (state, inner * SIZE), (self.y, inner)),
                "leave": ((outwards, 0), (self.y, inner), (self.hidden, width), (self.stream, width),
                          (self.squares, sums))}
            down = sum(-(-count // n) for n in (shape.rows_x, shape.rows_z))
            grids = {"enter": (inner // shape.columns_in * down, 1, 1),
                     "update": (inner // shape.channels, -(-count // UPDATE_ROWS), 1),
                     "leave": (width // shape.columns_out, -(-count // shape.rows_out), shape.split)}
            return count, {name: (grid, (1, 1, shape.split if name == "leave" else 1), addresses(begin, *given[name]))
                           for name, grid in grids.items()}

        each = -(-rows // (shape.parts * most)) * most
        self.plan = [part(begin, min(begin + each, rows)) for begin in range(0, rows, each)]
        self.streams = [torch.cuda.Stream(device) for _ in self.plan[1:]] if device.type == "cuda" else None
        self.rows, self.padded, self.count = rows, padded, len(layers)
        if launch is None:
            if device.type != "cuda" or torch.cuda.get_device_capability(device) != CAPABILITY:
                raise ValueError(f"the kernels for a layer of a step are for a GPU of compute capability 9.0, not "
                                 f"{device}")
            defined = definitions(backbone, rows, state.dtype, shape)
            with torch.cuda.device(device):
                self.kernels, self.shared = kernels(device.index, **defined), shared_bytes(defined)
            # Groups of four warps for a product, and a warp that fills the ring.
            self.threads = {"enter": 256 + 32, "update": shape.channels, "leave": 2 * shape.rows_out + 32}
        self.launch = launch or self._launch

    def step(self) -> None:
        """All layers; on the current stream, also while a graph is captured."""
        if not self.streams:
            for part in self.plan:
                self._layers(*part)
            return
        here = torch.cuda.current_stream(self.device)
        for stream in self.streams:
            stream.wait_stream(here)
        self._layers(*self.plan[0])
        for stream, part in zip(self.streams, self.plan[1:], strict=True):
            with torch.cuda.stream(stream):
                self._layers(*part)
            here.wait_stream(stream)

    def _layers(self, rows: int, kernels: dict[str, tuple]) -> None:
        for layer in range(self.count):
            for name, (grid, cluster, numbers) in kernels.items():
                self.launch(name, grid, cluster, [*numbers, layer, rows, self.rows, self.padded])

    def _launch(self, name: str, grid: tuple, cluster: tuple, numbers: list[int]) -> None:
        from cuda.core import LaunchConfig, launch

        # Of a cluster the grid has a number of clusters.
        config = LaunchConfig(grid=tuple(n // k for n, k in zip(grid, cluster, strict=True)),
                              cluster=cluster if max(cluster) > 1 else None, block=self.threads[name],
                              shmem_size=self.shared[name], programmatic_stream_serialization=True)
        with torch.cuda.device(self.device):
            launch(cuda_kernels.current_stream(), config, self.kernels[name], *numbers)


def addresses(row: int, *tensors: tuple[Tensor, int]) -> list[int]:
    """Of tensors with so many elements a row, from this row on: those that belong to no rows have 0."""
    assert all(tensor.is_contiguous() for tensor, _ in tensors)
    found = [tensor.data_ptr() + row * width * tensor.element_size() for tensor, width in tensors]
    assert all(address % 16 == 0 for address in found)
    return found


def recent_inputs(layers: int, rows: int, inner: int, device: torch.device) -> Tensor:
    """Zeros [layers, rows / 8, 8, 3, D / 32, 32], bfloat16; in memory 32 channels of all rows after the others."""
    groups = -(-rows // UPDATE_ROWS)
    return torch.zeros(layers, TAPS - 1, inner // 32, groups, UPDATE_ROWS, 32, dtype=BF16,
                       device=device).permute(0, 3, 4, 1, 2, 5)


def blocks(weight: Tensor, columns: int) -> Tensor:
    """[n, k] as [n / columns, k / 64, columns, 64], where a row has its 8 numbers c at c ^ (row % 8); k is padded."""
    n, k = weight.shape
    weight = F.pad(weight, (0, -k % TERMS)).view(n // columns, columns, -1, 8, 8).transpose(1, 2)
    order = torch.arange(8, device=weight.device) ^ torch.arange(columns, device=weight.device)[:, None] % 8
    return weight.gather(3, order[None, None, :, :, None].expand(weight.shape)).flatten(3)


def neighbours(inner: int, each: int) -> Tensor:
    """[inner] channels in the order of a product's columns, of which a group of warps has `each`.

    A lane has two of every 8 columns of a product: 2 t and 2 t + 1, for its number t in a row. In this order the
    channels are neighbours that it has of 16 columns, or of 32, where `each` is a multiple of that.
    """
    octets = 4 if each % 32 == 0 else 2
    return torch.arange(inner).view(-1, 4, octets, 2).transpose(1, 2).flatten()


def pack(norm, mixer, shape: Tiles) -> tuple[Tensor, ...]:
    """A layer's weights in the order inwards, select, steps, outwards in bfloat16, small in float32."""
    with torch.no_grad():
        inner, width, rank = mixer.d_inner, mixer.out_proj.out_features, mixer.dt_rank
        x, z = (neighbours(inner, shape.columns_in * rows // 128).to(mixer.D.device)
                for rows in (shape.rows_x, shape.rows_z))
        inwards = (mixer.in_proj.weight * norm.weight).to(BF16)[torch.cat([x, inner + z])]
        inwards = blocks(inwards, shape.columns_in)
        select = torch.stack([blocks(part, rank + 2 * SIZE)[0]
                              for part in mixer.x_proj.weight.to(BF16)[:, x].split(shape.columns_in, 1)])
        steps = F.pad(mixer.dt_proj.weight.to(BF16), (0, -rank % 16)).view(inner // 16, 2, 8, -1, 4, 2, 2)
        steps = steps.permute(0, 3, 2, 4, 5, 1, 6)  # of 16 channels, rows g and g + 8 of lane 4 g + t, its terms 4 t on
        order = neighbours(width, shape.columns_out // shape.split).to(mixer.D.device)
        outwards = blocks(mixer.out_proj.weight.to(BF16)[order], shape.columns_out)
        rates = -torch.exp(mixer.A_log.double()) / 0.6931471805599453
        small = torch.cat([part.float().flatten() for part in (
            mixer.conv1d.weight[:, 0].t(), mixer.conv1d.bias, mixer.dt_proj.bias, mixer.D, rates)])
        assert small.numel() == (TAPS + 3 + SIZE) * inner
        return inwards, select, steps, outwards, small
