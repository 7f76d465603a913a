"""All layers of one decoding step of Mamba as one CUDA kernel, for at most 256 rows (mamba_step.cu).

With few rows a step is bound by the latency of its small kernels. Here the blocks of one kernel, one a multiprocessor,
stay for the whole step and wait for each other three times a layer; while a block waits, its next weights and states
are on their way to it. The kernel is compiled when it is first used, for blocks that suit the number of rows, and
launched as a cooperative one, so that all its blocks run at once.

Two runs give the same bits: what blocks add up in memory, the selection (low-rank step, B and C) before its bias, is in
fixed point, units of 2^-32. A block's part of such a sum that reaches 2^17, or is not a number, makes the sum not a
number, and so the row's state and logits.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.backbones.scan_cuda import CurrentStream


@dataclass(frozen=True, slots=True)
class Shape:
    """What a block of the kernel has; it is for at most `most` rows.

    rows, channels: of a block; columns: of the residual stream that it computes; shared: bytes of memory
    """

    most: int
    rows: int
    channels: int
    columns: int
    warps: int
    shared: int

    def takes(self, width: int, inner: int, rank: int) -> bool:
        """Whether the kernel is written for these widths of the stream and inside, and this rank of the step size."""
        groups, leaving = inner // self.channels, width // self.columns
        return (width % self.columns == inner % self.channels == rank % 8 == leaving % 4 == 0
                and width % (32 * self.warps // (self.rows // 32)) == inner % (32 * self.warps) == 0
                and leaving <= groups <= 64)

    def blocks(self, rows: int, inner: int) -> int:
        return -(-rows // self.rows) * (inner // self.channels)


SHAPES = (Shape(64, 32, 24, 16, 8, 56 * 1024), Shape(128, 32, 48, 24, 8, 227 * 1024),
          Shape(256, 64, 48, 24, 8, 227 * 1024))
"""Of the blocks, by the most rows: 128 blocks for them, with the widths of `WIDEST`."""

ROWS = SHAPES[-1].most
"""Rows that there can be."""

SIZE = 16
"""States of a channel."""

TAPS = 4
"""Width of the convolution."""

WIDEST = 768, 1536, 64
"""The largest widths, of the stream and inside, and rank of the step size for which the registers are enough."""

BF16 = torch.bfloat16


def fits(backbone, rows: int, weights: torch.dtype, states: torch.dtype) -> bool:
    """Whether the kernel takes this Mamba, and the GPU that it is on takes the kernel."""
    return takes(backbone, rows, weights, states) and _runs(backbone, rows, states)


def takes(backbone, rows: int, weights: torch.dtype, states: torch.dtype) -> bool:
    """Whether the kernel is written for this shape and these types."""
    return weights == BF16 and states in (BF16, torch.float32) and shape(backbone, rows) is not None


def shape(backbone, rows: int) -> Shape | None:
    """The blocks for so many rows of this Mamba: the first of SHAPES with which the kernel takes it."""
    mixer = backbone.backbone["layers"][0].mixer
    sizes = backbone.lm_head.in_features, mixer.d_inner, mixer.dt_rank
    if mixer.d_state != SIZE or mixer.d_conv != TAPS or any(n > most for n, most in zip(sizes, WIDEST, strict=True)):
        return None
    return next((shape for shape in SHAPES if 0 < rows <= shape.most and shape.takes(*sizes)), None)


def _runs(backbone, rows: int, states: torch.dtype) -> bool:
    device = backbone.lm_head.weight.device
    if device.type != "cuda" or torch.version.hip or not find_spec("cuda") or not find_spec("cuda.core"):
        return False
    properties, block = torch.cuda.get_device_properties(device), shape(backbone, rows)
    blocks = block.blocks(rows, backbone.backbone["layers"][0].mixer.d_inner)
    if properties.major < 9 or properties.multi_processor_count < blocks:
        return False
    try:
        with torch.cuda.device(device):
            return kernel(device.index, **definitions(backbone, states, block)).occupancy \
                .max_active_blocks_per_multiprocessor(32 * block.warps, block.shared) > 0
    except Exception as error:  # a cuda.core whose compiler does not know the GPU, or too little shared memory
        text = " ".join(str(error).split())[:200]
        warnings.warn(f"the kernel for a whole step cannot be compiled ({type(error).__name__}: {text}): decoding of "
                      f"few rows is slower", stacklevel=4)
        return False


def definitions(backbone, states: torch.dtype, block: Shape) -> dict[str, int | str]:
    """What mamba_step.cu leaves open."""
    mixer = backbone.backbone["layers"][0].mixer
    return {"WIDTH": backbone.lm_head.in_features, "INNER": mixer.d_inner, "RANK": mixer.dt_rank,
            "EPS": f"{float(backbone.backbone['norm_f'].eps):e}f", "STATE_BYTES": states.itemsize,
            "BLOCK_ROWS": block.rows, "CHANNELS": block.channels, "COLUMNS": block.columns, "WARPS": block.warps,
            "SHARED": block.shared}


@functools.cache
def kernel(device: int, **defined: int | str):
    """The kernel for a device, the current one, and the definitions."""
    from cuda.bindings import driver
    from cuda.core import Device, Program, ProgramOptions

    Device(device).set_current()
    code = Path(__file__).with_name("mamba_step.cu").read_text(encoding="utf-8")
    lines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    capability = torch.cuda.get_device_capability(device)
    options = ProgramOptions(arch="sm_{}{}".format(*capability), std="c++17", use_fast_math=True)
    compiled = Program(lines + code, "c++", options).compile("cubin").get_kernel("mamba_step")
    most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    error, = driver.cuKernelSetAttribute(most, defined["SHARED"], compiled.handle, device)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{defined['SHARED']} bytes of shared memory: {error.name}")
    return compiled


class MambaStep:
    """The layers' weights as the kernel reads them, and the buffers between its blocks.

    recent: [n_layer, rows, 3, D] bfloat16, state: [n_layer, rows, D, N], clock: [1] int32, changed in place
    stream: [all, W] bfloat16, hidden: [rows, W] float32, squares: [2, all, parts] float32, where all >= rows: before a
            step the embedding, twice, and the sums of its squares in squares[0], all in one part; after it, in `stream`
            and squares[1], what the head needs: there the parts are those of a row's sum
    launch: runs the kernel with these numbers and so many blocks, where it is not a GPU that does
    """

    def __init__(self, backbone, rows: int, recent: Tensor, state: Tensor, clock: Tensor,
                 launch: Callable[[int, list[int]], None] | None = None) -> None:
        layers = backbone.backbone["layers"]
        mixer, width, device = layers[0].mixer, backbone.lm_head.in_features, state.device
        inner, selected, block = mixer.d_inner, mixer.dt_rank + 2 * SIZE, shape(backbone, rows)
        whole = -(-rows // block.rows) * block.rows

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.weights = [torch.stack(parts).contiguous()
                        for parts in zip(*(pack(layer.norm, layer.mixer, block) for layer in layers), strict=True)]
        self.stream, self.hidden, self.squares = (zeros(whole, width, dtype=BF16), zeros(rows, width),
                                                  zeros(2, whole, width // block.columns))
        self.selection = zeros(2, whole, selected, dtype=torch.int64)
        self.y = zeros(whole, inner, dtype=BF16)
        self.recent, self.state, self.clock, self.counter = recent, state, clock, zeros(1, dtype=torch.int32)
        tensors = (*self.weights, self.stream, self.hidden, self.squares, self.selection, self.y, recent, state, clock,
                   self.counter)
        assert all(tensor.is_contiguous() and tensor.data_ptr() % 16 == 0 for tensor in tensors)
        self.numbers = [*(tensor.data_ptr() for tensor in tensors), len(layers), rows]
        self.block, self.blocks, self.device = block, block.blocks(rows, inner), device
        if launch is None:
            with torch.cuda.device(device):
                self.kernel = kernel(device.index, **definitions(backbone, state.dtype, block))
        self.launch = launch or self._launch

    def step(self) -> None:
        """All layers; on the current stream, also while a graph is captured."""
        self.launch(self.blocks, self.numbers)

    def _launch(self, blocks: int, numbers: list[int]) -> None:
        from cuda.core import LaunchConfig, launch

        config = LaunchConfig(grid=blocks, block=32 * self.block.warps, shmem_size=self.block.shared,
                              is_cooperative=True)
        with torch.cuda.device(self.device):
            launch(CurrentStream(), config, self.kernel, *numbers)


def fragments(weight: Tensor) -> Tensor:
    """[..., n, k] as [..., k / 32, n / 8, 32, 8]: for 32 terms and 8 outputs, the 8 numbers of each lane of a warp.

    Lane 4 g + t has terms 8 t to 8 t + 7 of output g.
    """
    *outer, n, k = weight.shape
    places = len(outer)
    order = (*range(places), places + 2, places, places + 1, places + 3, places + 4)
    return weight.reshape(*outer, n // 8, 8, k // 32, 4, 8).permute(order).reshape(*outer, k // 32, n // 8, 32, 8)


def tiled(weight: Tensor) -> Tensor:
    """[..., n, k] as [..., k / 32, n / 16, 2, 32, 8]: the same for the left of a product, where a lane has two outputs.

    Lane 4 g + t has, of outputs g and g + 8, terms 8 t to 8 t + 3, and then 8 t + 4 to 8 t + 7, two at a time.
    """
    *outer, n, k = weight.shape
    places = len(outer)
    # n / 16, lower, g; k / 32, t, second, high, one of two.
    parts = weight.reshape(*outer, n // 16, 2, 8, k // 32, 4, 2, 2, 2)
    order = (*range(places), *(places + i for i in (3, 0, 5, 2, 4, 6, 1, 7)))
    return parts.permute(order).reshape(*outer, k // 32, n // 16, 2, 32, 8)


def pack(norm, mixer, block: Shape) -> tuple[Tensor, ...]:
    """A layer's weights in the kernel's order: inwards, select, steps, outwards in bfloat16, small in float32."""
    with torch.no_grad():
        channels = block.channels
        groups, rank = mixer.d_inner // channels, mixer.dt_rank
        inwards = (mixer.in_proj.weight * norm.weight).to(BF16).view(2, groups, channels, -1)
        # Of 8 outputs a lane of the kernel gets two neighbours; it wants the t-th and the t-th after the first four.
        select = mixer.x_proj.weight.to(BF16).view(-1, 2, 4, mixer.d_inner).transpose(1, 2)
        select = F.pad(select.reshape(-1, groups, channels), (0, -channels % 32))
        steps = F.pad(mixer.dt_proj.weight.to(BF16).view(groups, channels, rank), (0, -rank % 32))
        outwards = mixer.out_proj.weight.to(BF16).view(-1, block.columns, mixer.d_inner)
        rates = -torch.exp(mixer.A_log.double()) / 0.6931471805599453
        each = torch.stack([*mixer.conv1d.weight[:, 0].t(), mixer.conv1d.bias, mixer.dt_proj.bias, mixer.D])
        small = torch.cat([each.float().view(-1, groups, channels).transpose(0, 1).flatten(1),
                           rates.float().view(groups, -1)], 1)
        return (tiled(inwards.transpose(0, 1).flatten(1, 2)), fragments(select.transpose(0, 1)),
                fragments(steps).transpose(1, 2), fragments(outwards), small)
