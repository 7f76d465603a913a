"""All layers of one decoding step of Mamba as one CUDA kernel, for at most 64 rows (mamba_step.cu).

With few rows a step is bound by the latency of its small kernels. Here the blocks of one kernel, one a multiprocessor,
stay for the whole step and wait for each other three times a layer; while a block waits, its next weights and states
are on their way to it. The kernel is compiled when it is first used, and launched as a cooperative one, so that all its
blocks run at once.

Two runs give the same bits: what blocks add up in memory, the selection (low-rank step, B and C) before its bias, is in
fixed point, units of 2^-32. A block's part of such a sum that reaches 2^17, or is not a number, makes the sum not a
number, and so the row's state and logits.
"""

import functools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from length_gen.lightning_modules.backbones import cuda_kernels

ROWS = 64
"""Rows of the kernel; there may be fewer."""

HALF = 32
"""Rows of a block."""

CHANNELS = 24
"""Channels of a block."""

COLUMNS = 16
"""Columns of the residual stream that a block computes."""

WARPS = 8
"""Warps of a block."""

SIZE = 16
"""States of a channel."""

TAPS = 4
"""Width of the convolution."""

WIDEST = 768, 1536, 64
"""The largest widths, of the stream and inside, and rank of the step size for which the registers are enough."""

BF16 = torch.bfloat16


def fits(backbone, rows: int, weights: torch.dtype, states: torch.dtype) -> bool:
    """Whether the kernel takes this Mamba, and the GPU that it is on takes the kernel, which is compiled for that."""
    return takes(backbone, rows, weights, states) and _runs(backbone, states)


def takes(backbone, rows: int, weights: torch.dtype, states: torch.dtype, warps: int = WARPS) -> bool:
    """Whether the kernel is written for this shape and these types."""
    mixer, width = backbone.backbone["layers"][0].mixer, backbone.lm_head.in_features
    inner, rank = mixer.d_inner, mixer.dt_rank
    return (0 < rows <= ROWS and weights == BF16 and states in (BF16, torch.float32) and mixer.d_state == SIZE
            and mixer.d_conv == TAPS and width // COLUMNS <= inner // CHANNELS and width // COLUMNS % 4 == 0
            and width % (32 * warps) == inner % (32 * warps) == inner % CHANNELS == rank % 8 == 0
            and all(n <= most for n, most in zip((width, inner, rank), WIDEST, strict=True)))


def _runs(backbone, states: torch.dtype) -> bool:
    device = backbone.lm_head.weight.device
    if device.type != "cuda" or not cuda_kernels.compiler():
        return False
    return _device_runs(device, 2 * backbone.backbone["layers"][0].mixer.d_inner // CHANNELS,
                        **definitions(backbone, states))


@functools.cache
def _device_runs(device: torch.device, blocks: int, **defined: int | str) -> bool:
    """Kept, also that it does not: the compiler is not asked again for every decoder."""
    properties = torch.cuda.get_device_properties(device)
    if properties.major < 9 or properties.multi_processor_count < blocks:
        return False
    try:
        with torch.cuda.device(device):
            occupancy = kernel(device.index, **defined).occupancy
            return occupancy.max_active_blocks_per_multiprocessor(32 * WARPS, 0) > 0
    except Exception as error:  # a cuda.core whose compiler does not know the GPU
        text = " ".join(str(error).split())[:200]
        warnings.warn(f"the kernel for a whole step cannot be compiled ({type(error).__name__}: {text}): decoding of "
                      f"few rows is slower", stacklevel=5)
        return False


def definitions(backbone, states: torch.dtype, warps: int = WARPS) -> dict[str, int | str]:
    """What mamba_step.cu leaves open: names that it asks for, and their values."""
    mixer = backbone.backbone["layers"][0].mixer
    return {"WIDTH": backbone.lm_head.in_features, "INNER": mixer.d_inner, "RANK": mixer.dt_rank, "WARPS": warps,
            "EPS": f"{float(backbone.backbone['norm_f'].eps):e}f", "STATE_BYTES": states.itemsize}


def kernel(device: int, **defined: int | str):
    """mamba_step.cu compiled for a device, the current one, with these definitions; raises what the compiler raises."""
    capability = "{}{}".format(*torch.cuda.get_device_capability(device))
    return cuda_kernels.kernels(device, "mamba_step.cu", ("mamba_step",), capability, **defined)["mamba_step"]


class MambaStep:
    """The layers' weights as the kernel reads them, and the buffers between its blocks.

    recent: [n_layer, rows, 3, D] bfloat16, state: [n_layer, rows, D, N], clock: [1] int32, changed in place
    stream: [ROWS, W] bfloat16, hidden: [rows, W] float32, squares: [2, ROWS, parts] float32: before a step the
            embedding, twice, and the sums of its squares in squares[0], all in one part; after it, in `stream` and
            squares[1], what the head needs: there the parts are those of a row's sum
    launch: runs the kernel with these numbers and so many blocks, where it is not a GPU that does
    """

    def __init__(self, backbone, rows: int, recent: Tensor, state: Tensor, clock: Tensor,
                 launch: Callable[[int, list[int]], None] | None = None) -> None:
        layers = backbone.backbone["layers"]
        mixer, width, device = layers[0].mixer, backbone.lm_head.in_features, state.device
        inner, selected = mixer.d_inner, mixer.dt_rank + 2 * SIZE

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.weights = [torch.stack(parts).contiguous()
                        for parts in zip(*(pack(layer.norm, layer.mixer) for layer in layers), strict=True)]
        self.stream, self.hidden, self.squares = (zeros(ROWS, width, dtype=BF16), zeros(rows, width),
                                                  zeros(2, ROWS, width // COLUMNS))
        self.selection = zeros(2, ROWS, selected, dtype=torch.int64)
        self.y = zeros(ROWS, inner, dtype=BF16)
        self.recent, self.state, self.clock, self.counter = recent, state, clock, zeros(1, dtype=torch.int32)
        tensors = (*self.weights, self.stream, self.hidden, self.squares, self.selection, self.y, recent, state, clock,
                   self.counter)
        assert all(tensor.is_contiguous() and tensor.data_ptr() % 16 == 0 for tensor in tensors)
        self.numbers = [*(tensor.data_ptr() for tensor in tensors), len(layers), rows]
        self.blocks, self.device = 2 * inner // CHANNELS, device
        if launch is None:
            with torch.cuda.device(device):
                self.kernel = kernel(device.index, **definitions(backbone, state.dtype))
        self.launch = launch or self._launch

    def step(self) -> None:
        """All layers; on the current stream, also while a graph is captured."""
        self.launch(self.blocks, self.numbers)

    def _launch(self, blocks: int, numbers: list[int]) -> None:
        from cuda.core import LaunchConfig, launch

        with torch.cuda.device(self.device):
            launch(cuda_kernels.current_stream(), LaunchConfig(grid=blocks, block=32 * WARPS, is_cooperative=True),
                   self.kernel, *numbers)


def fragments(weight: Tensor) -> Tensor:
    """[..., n, k] as [..., k / 32, n / 8, 32, 8]: for 32 terms and 8 outputs, the 8 numbers of each lane of a warp.

    Lane 4 g + t has terms 8 t to 8 t + 7 of output g.
    """
    *outer, n, k = weight.shape
    places = len(outer)
    order = (*range(places), places + 2, places, places + 1, places + 3, places + 4)
    return weight.reshape(*outer, n // 8, 8, k // 32, 4, 8).permute(order).reshape(*outer, k // 32, n // 8, 32, 8)


def pack(norm, mixer) -> tuple[Tensor, ...]:
    """A layer's weights in the kernel's order: inwards, select, steps, outwards in bfloat16, small in float32."""
    with torch.no_grad():
        groups, rank = mixer.d_inner // CHANNELS, mixer.dt_rank
        inwards = (mixer.in_proj.weight * norm.weight).to(BF16).view(2, groups, CHANNELS, -1)
        # Of 8 outputs a lane of the kernel gets two neighbours; it wants the t-th and the t-th after the first four.
        select = mixer.x_proj.weight.to(BF16).view(-1, 2, 4, mixer.d_inner).transpose(1, 2)
        select = F.pad(select.reshape(-1, groups, CHANNELS), (0, 32 - CHANNELS))
        steps = F.pad(mixer.dt_proj.weight.to(BF16).view(groups, CHANNELS, rank), (0, -rank % 32))
        outwards = mixer.out_proj.weight.to(BF16).view(-1, COLUMNS, mixer.d_inner)
        rates = -torch.exp(mixer.A_log.double()) / 0.6931471805599453
        channels = torch.stack([*mixer.conv1d.weight[:, 0].t(), mixer.conv1d.bias, mixer.dt_proj.bias, mixer.D])
        small = torch.cat([channels.float().view(-1, groups, CHANNELS).transpose(0, 1).flatten(1),
                           rates.float().view(groups, -1)], 1)
        return (fragments(inwards.transpose(0, 1).flatten(1, 2)), fragments(select.transpose(0, 1)),
                fragments(steps).transpose(1, 2), fragments(outwards), small)
