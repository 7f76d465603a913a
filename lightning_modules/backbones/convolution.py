"""The causal depthwise convolution of Mamba's families with silu after it: of a chunk of tokens, and of one more."""

import torch
import torch.nn.functional as F
from torch import Tensor

from length_gen.lightning_modules.backbones.library_kernels import step_kernels


def causal_convolution(x: Tensor, recent: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """silu(causal depthwise convolution) [B, T, D] of x [B, T, D] after the inputs `recent` [B, K - 1, D], and the new
    `recent`.

    weight: [D, K], the latest token's last
    """
    latest = x[:, max(0, x.shape[1] - recent.shape[1]) :].to(recent.dtype)
    # A clone: the state must not keep more alive than itself.
    latest = torch.cat([recent, latest], 1)[:, latest.shape[1] :].clone()
    if x.device.type == "cpu" and x.dtype == recent.dtype == weight.dtype == torch.float32:
        return _NumbaConvolution.apply(x, recent, weight, bias), latest
    inputs, length = torch.cat([recent.to(x.dtype), x], 1), x.shape[1]
    result = torch.addcmul(bias, inputs[:, :length], weight[:, 0])
    for k in range(1, weight.shape[1]):  # sums of shifts beat a library call
        result = torch.addcmul(result, inputs[:, k : k + length], weight[:, k])
    return F.silu(result), latest


def convolution_step(x: Tensor, recent: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu(causal depthwise convolution) [B, D] of one more input x [B, D]; `recent` [B, K - 1, D] is updated in place.

    weight: [D, K]
    """
    if x.is_cuda and (kernels := step_kernels()):
        return kernels.causal_conv1d_update(x, recent.transpose(1, 2), weight, bias, "silu")
    inputs = torch.cat([recent, x[:, None].to(recent.dtype)], 1)
    recent.copy_(inputs[:, 1:])
    return F.silu(torch.linalg.vecdot(inputs, weight.t(), dim=1) + bias)


class _NumbaConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, recent, weight, bias):
        from length_gen.lightning_modules.backbones import scan_cpu

        x, recent = x.detach().contiguous(), recent.detach().contiguous()
        # Copies of the parameters, whose memory a sharded strategy frees, which it cannot where numpy has it.
        taps, bias = weight.detach().t().clone(memory_format=torch.contiguous_format), bias.detach().clone()
        y = torch.empty_like(x)
        scan_cpu.convolve(*(part.numpy() for part in (recent, x, taps, bias, y)))
        ctx.save_for_backward(recent, x, taps, bias)
        return y

    @staticmethod
    def backward(ctx, dy):
        from length_gen.lightning_modules.backbones import scan_cpu

        recent, x, taps, bias = ctx.saved_tensors
        drecent, dx = torch.zeros_like(recent), torch.zeros_like(x)
        dtaps, dbias = (x.new_zeros(len(x), *part.shape) for part in (taps, bias))
        arrays = recent, x, taps, bias, dy.contiguous(), drecent, dx, dtaps, dbias
        scan_cpu.convolve_backward(*(part.numpy() for part in arrays))
        return dx, drecent, dtaps.sum(0).t(), dbias.sum(0)
