"""The selective scan of Mamba-1 (Gu and Dao 2023, arXiv 2312.00752, algorithm 2), from any state.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        h: [B, D, N]
    y_t = C_t h_t                                         y: [B, T, D]

Shapes: u, delta [B, T, D]; A [D, N], negative; B, C [B, T, N]; state [B, D, N]. `delta` is positive (after softplus).
As in mamba-ssm, delta B stands for the zero-order hold of equation 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from length_gen.lightning_modules.backbones.fading import step_sizes
from length_gen.lightning_modules.backbones.library_kernels import step_kernels


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor,
                   state: Tensor) -> tuple[Tensor, Tensor]:
    """(y + D u) silu(z), [B, T, D], and the last state [B, D, N], differentiable; in float32 on the CPU by scan_cpu.py,
    else by `reference_scan`."""
    if u.device.type == "cpu" and u.dtype == torch.float32:
        return _NumbaScan.apply(u, delta, A, B, C, D, z, state)
    y, state = reference_scan(u, delta, A, B, C, state)
    return (y + D * u) * F.silu(z), state


def reference_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the formulas as they stand, a step at a time, on any device in any precision."""
    outputs = []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]
        state = torch.exp(step * A) * state + step * u[:, t, :, None] * B[:, t, None, :]
        outputs.append((state * C[:, t, None, :]).sum(-1))
    return torch.stack(outputs, 1), state


def selective_step(x: Tensor, dt: Tensor, dt_bias: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor,
                   state: Tensor, floor: float = 0.0) -> Tensor:
    """(y + D x) silu(z), [B, D], of one step, delta = step_sizes(dt + dt_bias, floor); `state` [B, D, N] is updated in
    place.

    x, dt, z: [B, D]; B, C: [B, N]; D, dt_bias: [D]
    """
    if x.is_cuda and (kernels := step_kernels()):
        if floor:  # which the kernel has not; it needs a bias all the same
            dt, dt_bias = step_sizes(dt + dt_bias, floor), torch.zeros_like(dt_bias)
        return kernels.selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus=not floor)
    delta = step_sizes(dt + dt_bias, floor)
    if x.device.type == "cpu" and state.dtype == x.dtype == torch.float32 and state.is_contiguous():
        from length_gen.lightning_modules.backbones import scan_cpu

        y = torch.empty_like(delta)
        arrays = (x, delta, A, B.contiguous(), C.contiguous(), D, z.contiguous(), state, y)
        scan_cpu.step(*(array.detach().numpy() for array in arrays))
        return y
    state.copy_(torch.exp(delta[..., None] * A) * state + (delta * x)[..., None] * B[:, None])
    return (torch.bmm(state, C[..., None]).squeeze(-1) + D * x) * F.silu(z)


def injected(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(u, delta, B, C) with N steps in front that write `state`, for a scan that can only start from zero.

    u, delta: [B, D, T]; B, C: [B, N, T], time last. In step n delta = 2^-60, B = e_n and u = 2^60 h[:, n], which adds
    exactly h[:, n] to column n (powers of two do not round); exp(2^-60 A) = 1 leaves the others as they are.
    """
    batch, width, size = state.shape
    unit = torch.eye(size, dtype=B.dtype, device=B.device).expand(batch, size, size)
    tiny = delta.new_full((batch, width, size), 2.0**-60)
    return (torch.cat([(state * 2.0**60).to(u.dtype), u], -1), torch.cat([tiny, delta], -1),
            torch.cat([unit, B], -1), torch.cat([torch.zeros_like(unit), C], -1))


class _NumbaScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, state):
        from length_gen.lightning_modules.backbones import scan_cpu

        u, delta, B, C, z = (x.detach().float().contiguous() for x in (u, delta, B, C, z))
        rates = A.detach().float().t().contiguous()
        D = D.detach().float().clone()  # whose memory a sharded strategy frees, which it cannot where numpy has it
        last = state.detach().float().transpose(1, 2).clone(memory_format=torch.contiguous_format)
        y = torch.empty_like(u)
        kept = u.new_empty(u.shape[0], -(-u.shape[1] // scan_cpu.CHUNK), *rates.shape)
        scan_cpu.forward(*(x.numpy() for x in (u, delta, rates, B, C, D, z, last, y, kept)))
        ctx.save_for_backward(u, delta, rates, B, C, D, z, kept)
        return y, last.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx, dy, dlast):
        from length_gen.lightning_modules.backbones import scan_cpu

        u, delta, rates, B, C, D, z, kept = ctx.saved_tensors
        dstate = dlast.float().transpose(1, 2).clone(memory_format=torch.contiguous_format)
        du, ddelta, dB, dC, dz = (torch.empty_like(x) for x in (u, delta, B, C, z))
        dA, dD = u.new_zeros(u.shape[0], *rates.shape), u.new_zeros(u.shape[0], len(D))
        arrays = (u, delta, rates, B, C, D, z, kept, dy.float().contiguous(), dstate, du, ddelta, dA, dB, dC, dD, dz)
        scan_cpu.backward(*(x.numpy() for x in arrays))
        return du, ddelta, dA.sum(0).t(), dB, dC, dD.sum(0), dz, dstate.transpose(1, 2)
