"""Selective scan and convolution on the CPU, compiled by numba: forward and backward, parallel over the batch's rows.

Arrays are float32. Imported when a scan first runs, because the compiled code is then loaded (or made, once, in some
seconds), and numba's threads are started.
"""

import contextlib
import ctypes
import functools
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange
from numba.core.caching import FunctionCache
from numba.extending import intrinsic

from length_gen.tools import system

CHUNK = 32
"""Steps between the states that the forward pass keeps; the backward pass makes the others again, in cache."""

_f = np.float32


def _share_threads() -> None:
    """As many threads as torch has, which keeps its own number: the OpenMP that numba starts is torch's too, and has
    its number of threads from whoever has set it last. A process that only compiles has no torch."""
    if torch := sys.modules.get("torch"):
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # starts them all
        torch.set_num_threads(threads)


def _keep_memory() -> None:
    """Freed blocks of some megabytes are used again, where glibc gives them back to the system, which hands them out
    zeroed, page by page, at every step of a training."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        for setting, value in ((-3, 1 << 25), (-1, 2**31 - 1)):  # M_MMAP_THRESHOLD, its most; M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(setting, value)


_share_threads()
_keep_memory()


class _Cache(FunctionCache):
    """numba's, which saves time and must not end a run: what cannot be read or written there is compiled again.

    What it does not hold is compiled in a process of its own, and then loaded like all later times: a process that has
    compiled a function runs another copy of its machine code than one that loads it, which rounds otherwise.
    """

    def load_overload(self, signature, target):
        found, name = self._load(signature, target), self._py_func.__name__
        if found is None and self._py_func.__module__ == __name__:
            with system.lock(Path(self.cache_path, f".{name}.lock"), wait=True):
                found = self._load(signature, target)  # what another process has compiled meanwhile
                if found is None:
                    _compile_elsewhere(name, signature)
                    found = self._load(signature, target)
        return found

    def _load(self, *arguments):
        try:
            return super().load_overload(*arguments)
        except Exception as error:  # of a torn file, unpickling raises anything
            _warn(f"{self.cache_path} cannot be read ({type(error).__name__}: {error})")
            with contextlib.suppress(OSError):
                self.flush()

    def save_overload(self, *arguments):
        try:
            super().save_overload(*arguments)
        except Exception as error:  # a full disk, or a torn index
            _warn(f"{self.cache_path} cannot be written ({type(error).__name__}: {error})")


def _compile_elsewhere(name: str, signature: tuple) -> None:
    """Put a function of this file into the cache, by a process that has imported nothing but this file."""
    code = (f"import importlib.util as u, sys; s = u.spec_from_file_location({__name__!r}, {__file__!r}); "
            f"sys.modules[s.name] = m = u.module_from_spec(s); s.loader.exec_module(m); m.save({name!r}, sys.argv[1])")
    if sys.stderr and sys.stderr.isatty():
        print(f"compiling {name} for this machine, once ...", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # then it is compiled here
        subprocess.run([sys.executable, "-c", code, pickle.dumps(signature).hex()], capture_output=True, timeout=300,
                       env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


def save(name: str, signature: str) -> None:
    """Compile a function of this file for a signature (pickled, in hexadecimal) into the cache."""
    dispatcher = njit(parallel=True, fastmath=True)(globals()[name].py_func)
    dispatcher._cache = FunctionCache(dispatcher.py_func)
    dispatcher.compile(pickle.loads(bytes.fromhex(signature)))


def compiled(function: Callable) -> Callable:
    """`function`, compiled by numba when it is first called, or loaded from its cache where it can have one."""
    dispatcher = njit(parallel=True, fastmath=True)(function)
    try:
        dispatcher._cache = _Cache(function)
    except RuntimeError:  # numba: "no locator available"
        _warn("neither this folder nor the user's home can be written to")
    return dispatcher


@functools.cache
def _warn(reason: str) -> None:
    """Once for each reason."""
    warnings.warn(f"the scan is compiled again in every process, which takes some seconds: {reason}; NUMBA_CACHE_DIR "
                  f"can name another folder to keep it in", stacklevel=3)


@intrinsic
def _as_float(typingctx, bits):
    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return numba.float32(numba.int32), codegen


@njit(inline="always", fastmath=True)
def _exp(x):
    """exp(x) for x <= 0 to about 2e-7, relative. A library call here would keep LLVM from vectorising the loops."""
    t = max(x * _f(1.4426950408889634), _f(-126.0))
    i = np.int32(t - _f(0.5))
    r = (t - _f(i)) * _f(0.6931471805599453)
    p = _f(1 / 720)
    p = p * r + _f(1 / 120)
    p = p * r + _f(1 / 24)
    p = p * r + _f(1 / 6)
    p = p * r + _f(0.5)
    p = p * r + _f(1)
    p = p * r + _f(1)
    return p * _as_float(np.int32((i + np.int32(127)) << np.int32(23)))


@compiled
def step(x, delta, a, b, c, skip, z, state, y):
    """One step, gated, into y: x, delta, z, y [B, D], a [D, N], b, c [B, N], skip [D], state [B, D, N] (in place)."""
    for row in prange(x.shape[0]):
        into, read = b[row], c[row]
        for d in range(x.shape[1]):
            h, rates, dt, out = state[row, d], a[d], delta[row, d], _f(0)
            inflow = dt * x[row, d]
            for n in range(a.shape[1]):
                h[n] = _exp(dt * rates[n]) * h[n] + inflow * into[n]
                out += h[n] * read[n]
            gate = z[row, d]
            decay = _exp(-abs(gate))
            y[row, d] = (out + skip[d] * x[row, d]) * gate * (_f(1) if gate > 0 else decay) / (_f(1) + decay)


@njit(inline="always", fastmath=True)
def _silu(x):
    decay = _exp(-abs(x))
    return x * (_f(1) if x > 0 else decay) / (_f(1) + decay)


@njit(inline="always", fastmath=True)
def _normed(x, weight, eps, y):
    """RMS norm of x [W] into y."""
    total = _f(0)
    for k in range(x.shape[0]):
        total += x[k] * x[k]
    scale = _f(1) / np.sqrt(total / _f(x.shape[0]) + _f(eps))
    for k in range(x.shape[0]):
        y[k] = x[k] * scale * weight[k]


@njit(inline="always", fastmath=True)
def _product(x, weight, y):
    """x [K] times weight [K, M] into y."""
    for m in range(weight.shape[1]):
        y[m] = _f(0)
    for k in range(weight.shape[0]):
        value, line = x[k], weight[k]
        for m in range(weight.shape[1]):
            y[m] += value * line[m]


@compiled
def block_step(hidden, norm, eps, inwards, taps, bias, selection, dt_weight, dt_bias, floor, a, skip, outwards, recent,
               state):
    """One step of a whole Mamba block on hidden [B, W], recent [B, K - 1, D] and state [B, D, N], all in place.

    Weights are [in, out]: inwards [W, 2 D], selection [D, R + 2 N], dt_weight [R, D], outwards [D, W]; taps [K, D];
    a [D, N]
    """
    for row in prange(hidden.shape[0]):
        width, size, rank = a.shape[0], a.shape[1], dt_weight.shape[0]
        normed, xz = np.empty(hidden.shape[1], _f), np.empty(2 * width, _f)
        x, delta, chosen = np.empty(width, _f), np.empty(width, _f), np.empty(rank + 2 * size, _f)
        _normed(hidden[row], norm, eps, normed)
        _product(normed, inwards, xz)
        before, last = recent[row], taps.shape[0] - 1
        for d in range(width):
            x[d] = bias[d] + taps[last, d] * xz[d]
        for k in range(last):
            for d in range(width):
                x[d] += taps[k, d] * before[k, d]
                before[k, d] = before[k + 1, d] if k + 1 < last else xz[d]
        for d in range(width):
            x[d] = _silu(x[d])
        _product(x, selection, chosen)
        _product(chosen, dt_weight, delta)
        into, read = chosen[rank : rank + size], chosen[rank + size :]
        for d in range(width):
            step = delta[d] + dt_bias[d]
            step = max(step, _f(0)) + np.log1p(_exp(-abs(step))) + _f(floor)
            h, rates, inflow, out = state[row, d], a[d], step * x[d], skip[d] * x[d]
            for n in range(size):
                h[n] = _exp(step * rates[n]) * h[n] + inflow * into[n]
                out += h[n] * read[n]
            x[d] = out * _silu(xz[width + d])
        _product(x, outwards, normed)
        for k in range(hidden.shape[1]):
            hidden[row, k] += normed[k]


@compiled
def score(hidden, norm, eps, head, logits):
    """Logits [B, V] of hidden [B, W]: the last norm, and head [W, V]."""
    for row in prange(hidden.shape[0]):
        normed = np.empty(hidden.shape[1], _f)
        _normed(hidden[row], norm, eps, normed)
        _product(normed, head, logits[row])


@njit(inline="always", fastmath=True)
def _sigmoid(x):
    decay = _exp(-abs(x))
    return (_f(1) if x > 0 else decay) / (_f(1) + decay)


@njit(inline="always", fastmath=True)
def _sums(before, x, taps, bias, t, sums):
    """The convolution at token t into sums [D]: x [T, D] after `before` [K - 1, D], taps [K, D], bias [D]."""
    last = taps.shape[0] - 1
    for d in range(bias.shape[0]):
        sums[d] = bias[d]
    for k in range(last + 1):
        weights, inputs = taps[k], x[t + k - last] if t + k >= last else before[t + k]
        for d in range(bias.shape[0]):
            sums[d] += weights[d] * inputs[d]


@compiled
def convolve(before, x, taps, bias, y):
    """silu of the causal depthwise convolution into y: x, y [B, T, D], before [B, K - 1, D], taps [K, D], bias [D]."""
    for row in prange(x.shape[0]):
        for t in range(x.shape[1]):
            out = y[row, t]
            _sums(before[row], x[row], taps, bias, t, out)
            for d in range(bias.shape[0]):
                out[d] = _silu(out[d])


@compiled
def convolve_backward(before, x, taps, bias, dy, dbefore, dx, dtaps, dbias):
    """Gradients of `convolve` into dbefore, dx, dtaps [B, K, D] and dbias [B, D], all zero before, from dy, that of y.

    dtaps and dbias are by row.
    """
    for row in prange(x.shape[0]):
        sums, last = np.empty(bias.shape[0], _f), taps.shape[0] - 1
        for t in range(x.shape[1]):
            _sums(before[row], x[row], taps, bias, t, sums)
            out, gbias = dy[row, t], dbias[row]
            for d in range(bias.shape[0]):
                share = _sigmoid(sums[d])
                sums[d] = out[d] * share * (_f(1) + sums[d] * (_f(1) - share))
                gbias[d] += sums[d]
            for k in range(last + 1):
                at, weights, gweights = t + k - last, taps[k], dtaps[row, k]
                inputs, ginputs = (x[row, at], dx[row, at]) if at >= 0 else (before[row, t + k], dbefore[row, t + k])
                for d in range(bias.shape[0]):
                    gweights[d] += sums[d] * inputs[d]
                    ginputs[d] += sums[d] * weights[d]


@compiled
def forward(u, delta, a, b, c, skip, z, state, y, kept):
    """The gated scan into y: u, delta, z, y [B, T, D], a [N, D], b, c [B, T, N], skip [D], state [B, N, D] (becomes the
    last).

    kept: [B, chunks, N, D], takes the state before every CHUNK-th token, for `backward`
    """
    batch, length, width = u.shape
    size = a.shape[0]
    for row in prange(batch):
        h = state[row]
        for t in range(length):
            if t % CHUNK == 0:
                kept[row, t // CHUNK] = h
            out, step, x, gate = y[row, t], delta[row, t], u[row, t], z[row, t]
            for d in range(width):
                out[d] = skip[d] * x[d]
            for n in range(size):
                into, read, line, rates = b[row, t, n], c[row, t, n], h[n], a[n]
                for d in range(width):
                    value = _exp(step[d] * rates[d]) * line[d] + step[d] * x[d] * into
                    line[d] = value
                    out[d] += value * read
            for d in range(width):
                out[d] *= _silu(gate[d])


@compiled
def backward(u, delta, a, b, c, skip, z, kept, dy, dstate, du, ddelta, da, db, dc, dskip, dz):
    """Gradients of `forward` into du, ddelta, da, db, dc, dskip and dz, from dy, that of y.

    dstate [B, N, D] holds that of the last state and becomes that of the first; da [B, N, D] and dskip [B, D], zero
    before, are by row.
    """
    batch, length, width = u.shape
    size = a.shape[0]
    for row in prange(batch):
        states = np.empty((CHUNK + 1, size, width), dtype=np.float32)
        decays = np.empty((CHUNK, size, width), dtype=np.float32)
        sums, out = np.empty((CHUNK, width), dtype=np.float32), np.empty(width, dtype=np.float32)
        grad, grad_a, gskip = dstate[row], da[row], dskip[row]
        for chunk in range((length + CHUNK - 1) // CHUNK - 1, -1, -1):
            start = chunk * CHUNK
            steps = min(CHUNK, length - start)
            states[0] = kept[row, chunk]
            for s in range(steps):
                step, x, total = delta[row, start + s], u[row, start + s], sums[s]
                for d in range(width):
                    total[d] = skip[d] * x[d]
                for n in range(size):
                    into, read, rates = b[row, start + s, n], c[row, start + s, n], a[n]
                    old, new, decay = states[s, n], states[s + 1, n], decays[s, n]
                    for d in range(width):
                        e = _exp(step[d] * rates[d])
                        decay[d] = e
                        value = e * old[d] + step[d] * x[d] * into
                        new[d] = value
                        total[d] += value * read
            for s in range(steps - 1, -1, -1):
                t = start + s
                step, x, gate, total, gy = delta[row, t], u[row, t], z[row, t], sums[s], dy[row, t]
                gx, gstep, gz = du[row, t], ddelta[row, t], dz[row, t]
                for d in range(width):
                    share = _sigmoid(gate[d])
                    gz[d] = gy[d] * total[d] * share * (_f(1) + gate[d] * (_f(1) - share))
                    out[d] = gy[d] * gate[d] * share
                    gskip[d] += out[d] * x[d]
                    gx[d] = out[d] * skip[d]
                    gstep[d] = _f(0)
                for n in range(size):
                    into, read = b[row, t, n], c[row, t, n]
                    old, new, decay = states[s, n], states[s + 1, n], decays[s, n]
                    rates, g, ga = a[n], grad[n], grad_a[n]
                    sum_b, sum_c = _f(0), _f(0)
                    for d in range(width):
                        value = g[d] + out[d] * read
                        sum_c += out[d] * new[d]
                        through = value * old[d] * decay[d]
                        sum_b += value * step[d] * x[d]
                        gstep[d] += through * rates[d] + value * x[d] * into
                        ga[d] += through * step[d]
                        gx[d] += value * step[d] * into
                        g[d] = value * decay[d]
                    db[row, t, n] = sum_b
                    dc[row, t, n] = sum_c
