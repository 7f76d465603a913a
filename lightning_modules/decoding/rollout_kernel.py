"""One step of a batch of rollouts between two steps of the model, as one Triton kernel; imported only on CUDA.

`lightning_modules.decoding.batched_rollout.Rows.advance` says what it does, in torch.
"""

import triton
import triton.language as tl


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit(do_not_specialize=["L", "C"])  # they change with the length, and need no kernel of their own
def advance(logits, tokens, count, pending, reason, budget, prompt, seeds, log, cells, ends, heads, operation, argument,
            end_token, blank, temperature, V, L, C, K, VP: tl.constexpr, SAMPLE: tl.constexpr):
    """One program a row; the numbers of the operations are those of `tools.batched.Operation`."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(reason + row) == 0:
        v = tl.arange(0, VP)
        score = tl.load(logits + row * V + v, mask=v < V, other=-float("inf")).to(tl.float32)
        n = tl.load(count + row)
        if SAMPLE:
            key = _mix(n.to(tl.uint32) ^ _mix(tl.load(seeds + row).to(tl.uint32)))
            draw = _mix(_mix(v.to(tl.uint32) ^ key) ^ _mix(key ^ 0x9E3779B9))
            small = tl.minimum(draw.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10, 0.99999994)
            series = small * (1 + small * (0.5 + small * (0.33333333 + small * (0.25 + small * 0.2))))
            # -log(1 - small): the logarithm near 1 would lose the digits of a small one.
            waiting_time = tl.where(small < 0.0625, series, -tl.log(1 - small))
            score = (score - tl.max(score, 0)) / temperature - tl.log(waiting_time)
        token = tl.minimum(tl.argmax(score, 0), V - 1).to(tl.int32)
        waiting = tl.load(pending + row)
        asked = n < tl.load(prompt + row)  # the prompt is in the log already
        token = tl.where(waiting >= 0, waiting, token)
        token = tl.where(asked, tl.load(log + row * L + n, mask=asked, other=0).to(tl.int32), token)
        free = (waiting < 0) & (n >= tl.load(prompt + row))
        ended = free & (token == end_token)
        act = tl.where(free & (token != end_token), tl.load(operation + token).to(tl.int32), 0)
        given = tl.load(argument + token).to(tl.int32)
        pointer = tl.where(act == 6, 0, tl.minimum(given, K - 1))
        head, last = tl.load(heads + row * K + pointer), tl.load(ends + row)
        invalid = (act >= 3) & (act <= 5) & (head < 0)
        to = tl.where(act == 2, 1, head)
        to = tl.where((act == 3) & (head >= 0), tl.maximum(head - 1, 0), to)
        to = tl.where((act == 4) & (head >= 0), tl.minimum(head + 1, last), to)
        reads = (act == 5) & (head >= 0)
        found = tl.load(cells + row * C + head, mask=reads & (head < last), other=0).to(tl.int32)
        seen = tl.where(head < last, found, blank)
        tl.store(heads + row * K + pointer, to)
        tl.store(pending + row, tl.where(reads, seen, -1))
        writes = (act == 1) | (act == 6)
        place, value = tl.where(act == 1, last, head), tl.where(act == 1, token, given)
        tl.store(cells + row * C + place, value.to(tl.int16), mask=writes)
        tl.store(ends + row, tl.where(act == 1, last + 1, last))
        tl.store(log + row * L + n, token.to(tl.int16))
        tl.store(count + row, n + 1)
        tl.store(tokens + row, token.to(tl.int64))
        spent = n + 1 >= tl.load(budget + row)
        tl.store(reason + row, tl.where(ended, 1, tl.where(invalid, 3, tl.where(spent, 2, 0))))
