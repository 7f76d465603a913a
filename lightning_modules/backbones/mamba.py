"""Mamba-1 (Gu and Dao 2023, arXiv 2312.00752), with the parameter names and the initialisation of mamba-ssm.

`Mixer.forward` takes mamba-ssm's or the suite's own scan on CUDA, and selective_scan.py where they are not;
`Mixer.step` is one token. Rollouts do not take `step`, but the kernels of mamba_decode.py on CUDA, and those of
mamba_decode_cpu.py, where those are for the shape.
"""

import math
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones import scan_cuda
from length_gen.lightning_modules.backbones.base import State, check_sizes, check_step_sizes
from length_gen.lightning_modules.backbones.convolution import convolution_step
from length_gen.lightning_modules.backbones.decoder import Decoder, StepDecoder
from length_gen.lightning_modules.backbones.fading import FadingMixer, layer_taps, start_bias, step_sizes
from length_gen.lightning_modules.backbones.layered import Block, LayeredBackbone, unchanged
from length_gen.lightning_modules.backbones.library_kernels import convolution_kernel, cuda_kernels
from length_gen.lightning_modules.backbones.selective_scan import injected, selective_scan, selective_step


class Mamba(LayeredBackbone):
    """Embedding, `n_layer` blocks of norm and mixer on a residual stream in float32, norm, head.

    Args:
        vocab_size: number of tokens
        n_layer: number of blocks
        d_model: width of the residual stream
        d_inner: width inside a block; null: 2 d_model
        d_state: state of each inner channel
        d_conv: width of the convolution
        dt_rank: rank of the step size; null: d_model / 16, rounded up
        tie_embeddings: whether the head shares the embedding's weights
        dt_min, dt_max: range of the step sizes at the start
        initializer_range: standard deviation of the embedding at the start
        norm_eps: of the RMS norms
        dt_floor: added to every step size, so that at most exp(dt_floor A) of a state is left after a token: the memory
            fades whatever the input
        taps: how many of the d_conv weights of each layer's convolution are kept, those of the latest tokens; the last
            number is also that of the layers after it. The others are 0 and stay so. null: all are kept
    """

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64, d_inner: int | None = None,
                 d_state: int = 16, d_conv: int = 4, dt_rank: int | None = None, tie_embeddings: bool = True,
                 dt_min: float = 0.001, dt_max: float = 0.1, initializer_range: float = 0.02,
                 norm_eps: float = 1e-5, dt_floor: float = 0.0, taps: list[int] | None = None) -> None:
        super().__init__(vocab_size)
        d_inner = 2 * d_model if d_inner is None else d_inner
        dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        check_sizes("Mamba", n_layer=n_layer, d_model=d_model, d_inner=d_inner, d_state=d_state, d_conv=d_conv,
                    dt_rank=dt_rank)
        check_step_sizes("Mamba", dt_min, dt_max, dt_floor)
        mixers = (Mixer(d_model, d_inner, d_state, d_conv, dt_rank, dt_min, dt_max, dt_floor, kept)
                  for kept in layer_taps("Mamba", taps, n_layer, d_conv))
        self.stack(d_model, mixers, norm_eps, initializer_range, tie_embeddings)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        # Without a check of the state, which would take longer than a step of a small model.
        embedding, layers, norm, head = self.parts
        hidden, new = embedding(tokens), []
        for layer, layer_state in zip(layers, state, strict=True):
            hidden, layer_state = layer.step(hidden, layer_state)
            new.append(layer_state)
        return head(norm(hidden)), new

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        if weights == torch.float64:
            return StepDecoder(self, rows, length, weights)
        if self.lm_head.weight.is_cuda and find_spec("triton") and self.is_plain():
            from length_gen.lightning_modules.backbones.mamba_decode import MambaDecoder, can_decode

            if can_decode(self):
                return MambaDecoder(self, rows, weights, states)
        if self.lm_head.weight.device.type == "cpu" and self.is_plain():
            from length_gen.lightning_modules.backbones import mamba_decode_cpu

            if mamba_decode_cpu.can_decode(self):
                return mamba_decode_cpu.CompiledDecoder(self, rows, length)
        return StepDecoder(self, rows, length)  # the parameters of the recurrence need float32

    def is_plain(self) -> bool:
        """Whether it computes what its weights alone tell, so that a decoder may read those: no part of it is changed
        by a subclass, replaced by another module or hooked into."""
        _, blocks, norm, head = self.parts
        return (unchanged(self, Mamba, "forward", "step", "prefill", "parts", "_features")
                and all(unchanged(block, Block, "forward", "step", "add") and type(block.norm) is nn.RMSNorm
                        and unchanged(block.mixer, Mixer, "forward", "step", "_convolve", "_selection")
                        and block.mixer.in_proj.bias is block.mixer.x_proj.bias is block.mixer.out_proj.bias is None
                        for block in blocks) and type(norm) is nn.RMSNorm and head.bias is None
                and not any(part._forward_hooks or part._forward_pre_hooks for part in self.modules()))


class Mixer(FadingMixer):
    """The Mamba block (section 3.4).

    State: the last d_conv - 1 inputs of the convolution [B, d_conv - 1, D], and h [B, D, N].
    """

    def __init__(self, d_model: int, d_inner: int, d_state: int, d_conv: int, dt_rank: int, dt_min: float,
                 dt_max: float, dt_floor: float = 0.0, taps: int | None = None) -> None:
        super().__init__(d_conv, dt_floor, taps)
        self.d_inner, self.d_state, self.dt_rank = d_inner, d_state, dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = self.convolution(d_inner)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.A_log._no_weight_decay = self.D._no_weight_decay = True
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(start_bias(d_inner, dt_min, dt_max))

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        new = self.A_log.new_zeros
        return new(batch_size, self.d_conv - 1, self.d_inner), new(batch_size, self.d_inner, self.d_state)

    def forward(self, hidden: Tensor,
                state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The block on hidden [B, T, d_model], and the new state.

        state: where to go on from; it is not modified. None: from zero; kernels on CUDA then leave no new state (None)
        """
        kernels = cuda_kernels() if hidden.is_cuda and unchanged(self, Mixer, "_convolve", "_selection") else None
        own = kernels and scan_cuda.usable(hidden, self.d_inner, self.d_state)
        if state is None and kernels and (own or not self.dt_floor):  # which mamba-ssm's block has not
            return self.fused(hidden), None
        state = self.initial_state(len(hidden)) if state is None else state
        if own and not torch.is_grad_enabled():
            return self._carried_scan(hidden, state)
        if kernels:
            return self._carried(kernels, hidden, state)
        x, z = self._inwards(hidden)
        x, recent = self._convolve(x, state[0])
        delta, B, C = self._selection(x)
        x, gate = x.to(self.A_log.dtype), z.to(self.A_log.dtype)
        y, h = selective_scan(x, delta, -torch.exp(self.A_log), B, C, self.D, gate, state[1])
        return self.out_proj(y.to(z.dtype)), (recent, h)

    def _carried(self, kernels, hidden: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The same by mamba-ssm's scan and causal-conv1d, with time last, as they read it."""
        x, z = _product(self.in_proj.weight, hidden.mT).chunk(2, 1)  # [B, D, T]
        inputs = torch.cat([state[0].mT.to(x.dtype), x], -1)
        before = 8  # tokens: the kernel takes lengths that are multiples of 8 faster
        x = convolution_kernel()(F.pad(inputs, (before + 1 - self.d_conv, 0)), self.filter, self.conv1d.bias,
                                 activation="silu")[..., before:]
        dt, B, C = _product(self.x_proj.weight, x).split([self.dt_rank, self.d_state, self.d_state], 1)
        dt = _product(self.dt_proj.weight, dt).float() + self.dt_proj.bias.float()[:, None]
        delta = step_sizes(dt, self.dt_floor)
        x, delta, B, C = injected(x.float(), delta, B.float(), C.float(), state[1])
        y, h = kernels.selective_scan_fn(x, delta, -torch.exp(self.A_log.float()), B, C, self.D.float(),
                                         F.pad(z.float(), (self.d_state, 0)), return_last_state=True)
        # Copies: the state must not keep the whole chunk alive.
        recent = inputs[..., inputs.shape[2] + 1 - self.d_conv :].mT.to(state[0].dtype)
        recent = recent.clone(memory_format=torch.contiguous_format)
        return self.out_proj(y[..., self.d_state :].mT.to(z.dtype)), (recent, h.to(state[1].dtype).clone())

    def _selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step sizes, input and output matrices, which depend on the input (section 3.2), in the parameters' type."""
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        kind = self.A_log.dtype
        return step_sizes(self.dt_proj(dt).to(kind), self.dt_floor), B.to(kind), C.to(kind)

    def step_sizes(self, hidden: Tensor) -> Tensor:
        """Delta [B, T, D] for hidden [B, T, d_model], from the first token on."""
        return self._selection(self._convolve(self._inwards(hidden)[0], self.initial_state(len(hidden))[0])[0])[0]

    def fused(self, hidden: Tensor) -> Tensor:
        """The block on hidden [B, T, d_model] from the initial state by fused kernels, without the last state.

        Rows are filled up to a length that the kernels like: what comes later does not change what comes before.
        """
        own, length = scan_cuda.usable(hidden, self.d_inner, self.d_state), hidden.shape[1]
        hidden = F.pad(hidden, (0, 0, 0, -length % (scan_cuda.CHUNK if own else 64)))
        return (self._token_scan(hidden) if own else self._library_scan(hidden))[:, :length]

    def _library_scan(self, hidden: Tensor) -> Tensor:
        """By mamba-ssm's block."""
        # With time last, as the scan reads it, so that nothing is transposed: [2 D, B T] as [B, 2 D, T].
        xz = (self.in_proj.weight @ hidden.flatten(0, 1).t()).unflatten(1, hidden.shape[:2]).transpose(0, 1)
        return cuda_kernels().mamba_inner_fn(
            xz, self.filter[:, None], self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight, self.out_proj.weight,
            None, -torch.exp(self.A_log.float()), None, None, self.D.float(), delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True, checkpoint_lvl=0)  # nothing is computed again for the backward pass

    def _token_scan(self, hidden: Tensor) -> Tensor:
        """By the suite's scan, with the channels last all the way; for lengths that are multiples of CHUNK."""
        x, z = self._inwards(hidden)
        return self.out_proj(scan_cuda.token_scan(*self._scanned(x, z), self.dt_floor))

    def _carried_scan(self, hidden: Tensor,
                      state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The same from `state`, for any length: no time passes in the tokens that fill the last chunk up."""
        length, taps = hidden.shape[1], self.d_conv - 1
        inputs, z = self._inwards(F.pad(hidden, (0, 0, 0, -length % scan_cuda.CHUNK)))
        recent = state[0].to(inputs.dtype)
        x, dt, *others = self._scanned(inputs, z, recent.mT)
        dt[:, length:] = -torch.inf
        y, h = scan_cuda.carried_scan(x, dt, *others, state[1], self.dt_floor)
        recent = torch.cat([recent, inputs[:, max(0, length - taps) : length]], 1)[:, -taps:]
        return self.out_proj(y[:, :length]), (recent.to(state[0].dtype).contiguous(), h.to(state[1].dtype))

    def _inwards(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """x and z by two products, whose gradients need not be put side by side."""
        inwards, gates = self.in_proj.weight.chunk(2)
        return F.linear(hidden, inwards), F.linear(hidden, gates)

    def _scanned(self, x: Tensor, z: Tensor, recent: Tensor | None = None) -> tuple[Tensor, ...]:
        """What `token_scan` takes. recent: inputs of the convolution before x, [B, D, d_conv - 1]"""
        x = convolution_kernel()(x.mT, self.filter, self.conv1d.bias, initial_states=recent, activation="silu").mT
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.linear(dt, self.dt_proj.weight)
        return x, dt, z, B, C, -torch.exp(self.A_log.float()), self.D, self.dt_proj.bias

    def step(self, hidden: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not unchanged(self, Mixer, "forward", "_convolve", "_selection"):  # a subclass's formulas stand there alone
            hidden, state = self(hidden[:, None], state)
            return hidden[:, 0], state
        recent, h = state
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        x = convolution_step(x, recent, self.filter, self.conv1d.bias)
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.linear(dt, self.dt_proj.weight)
        y = selective_step(x, dt, self.dt_proj.bias, -torch.exp(self.A_log), B, C, self.D, z, h, self.dt_floor)
        return self.out_proj(y), state


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """weight @ x of x [B, D, T], contiguous, where `@` would leave time first in memory."""
    return torch.bmm(weight.expand(len(x), -1, -1), x)
