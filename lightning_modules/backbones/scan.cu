// The selective scan of Mamba-1: 16 states a channel, bfloat16 in and out. See scan_cuda.py.
//
// A warp takes 32 channels of one row through time: a lane has one channel, its 16 states in registers. Sums over the
// states stay in a lane; sums over the channels, the gradients of B and C, are exchanges between lanes. So that of two
// lanes that exchange each sends its last half, lanes differ in the order of their states: the j-th group of four of
// a lane is group j ^ order, order = (lane >> 3) & 3. `kept` has the states in the lanes' orders.
//
// x, dt, z, out and their gradients: element (row, t, channel) at row * _row + t * _step + channel; B, C likewise with
// a state for the channel. rates: A log2(e), [16, WIDTH]; dA: the gradient of A, likewise. length is a multiple of 16.
// before, after: null, or the state before and after all tokens, [rows, WIDTH, 16]; the gradients are those of a scan
// from zero.
// WIDTH, the number of channels, and FLOOR, which is added to every step size, are defined by who compiles this. Needs
// compute capability 8.0.

// To a tile in shared memory, 16 tokens of 32 channels, 64 bytes each: a lane copies 16 bytes of token lane / 4 and of
// the 8th after it, from where `from` points to.
DEVICE void fetch(uint4* tile, const bf16* from, long long step, int lane) {
    copy_later(tile + lane, from);
    copy_later(tile + 32 + lane, from + 8 * step);
}

// 8 tokens of B and C in float32, [8][16 + 16].
DEVICE void widen(float4* to, const uint4* tile, int lane) {
    uint4 eight = tile[lane];
    __syncwarp();
    to[2 * lane] = make_float4(low(eight.x), high(eight.x), low(eight.y), high(eight.y));
    to[2 * lane + 1] = make_float4(low(eight.z), high(eight.z), low(eight.w), high(eight.w));
    __syncwarp();
}

// Back from a tile.
DEVICE void put(bf16* to, const uint4* tile, long long step, int lane) {
    *(uint4*)to = tile[lane];
    *(uint4*)(to + 8 * step) = tile[32 + lane];
}

// The step size; where x is -inf, no time passes.
DEVICE float step_size(float x) {
    return x > -1e30f ? softplus(x) + FLOOR : 0.0f;
}

// One step of the states: h = exp(step A) h + in B.
DEVICE void advance(float* h, const float* rate, float step, float in, const float4* B, int order) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float4 b = B[j ^ order];
        h[4 * j] = h[4 * j] * exp2_(step * rate[4 * j]) + in * b.x;
        h[4 * j + 1] = h[4 * j + 1] * exp2_(step * rate[4 * j + 1]) + in * b.y;
        h[4 * j + 2] = h[4 * j + 2] * exp2_(step * rate[4 * j + 2]) + in * b.z;
        h[4 * j + 3] = h[4 * j + 3] * exp2_(step * rate[4 * j + 3]) + in * b.w;
    }
}

// C h.
DEVICE float read(const float* h, const float4* C, int order) {
    float sum[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float4 c = C[j ^ order];
        sum[j] = h[4 * j] * c.x + h[4 * j + 1] * c.y + h[4 * j + 2] * c.z + h[4 * j + 3] * c.w;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

extern "C" __global__ __launch_bounds__(32, 16) void scan_forward(
        const bf16* __restrict__ x, const bf16* __restrict__ dt, const bf16* __restrict__ z,
        const bf16* __restrict__ B, const bf16* __restrict__ C, const float* __restrict__ rates,
        const float* __restrict__ skip, const float* __restrict__ bias, bf16* __restrict__ out,
        float* __restrict__ kept, const float4* __restrict__ before, float4* __restrict__ after, long long length,
        long long x_row, long long x_step, long long dt_row, long long dt_step, long long z_row, long long z_step,
        long long b_row, long long b_step, long long c_row, long long c_step, long long out_row, long long out_step) {
    __shared__ __align__(16) uint4 tiles[2][4][64];  // of x, dt, z, B and C: while one is used, the next is fetched
    __shared__ __align__(16) float4 BC[64];
    int lane = threadIdx.x, first = blockIdx.x * 32, channel = first + lane, order = (lane >> 3) & 3;
    int token = lane / 4, part = lane % 4 * 8;  // that a lane copies
    long long row = blockIdx.y;
    x += row * x_row + token * x_step + first + part;
    dt += row * dt_row + token * dt_step + first + part;
    z += row * z_row + token * z_step + first + part;
    out += row * out_row + token * out_step + first + part;
    const bf16* BC_from = part < 16 ? B + row * b_row + token * b_step + part
                                    : C + row * c_row + token * c_step + part - 16;
    long long BC_step = part < 16 ? b_step : c_step;
    bool stored = kept;
    kept += row * (length / 16) * 16 * WIDTH + channel;
    float rate[16], h[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        rate[i] = rates[(((i >> 2) ^ order) * 4 + (i & 3)) * WIDTH + channel];
        h[i] = 0.0f;
    }
    long long of_state = (row * WIDTH + channel) * 4;
    if (before) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float4 four = before[of_state + (j ^ order)];
            h[4 * j] = four.x;
            h[4 * j + 1] = four.y;
            h[4 * j + 2] = four.z;
            h[4 * j + 3] = four.w;
        }
    }
    float through = skip[channel], shift = bias[channel];
    auto prefetch = [&](int start, uint4 (*tile)[64]) {
        fetch(tile[0], x + start * x_step, x_step, lane);
        fetch(tile[1], dt + start * dt_step, dt_step, lane);
        fetch(tile[2], z + start * z_step, z_step, lane);
        fetch(tile[3], BC_from + start * BC_step, BC_step, lane);
    };
    prefetch(0, tiles[0]);
#pragma unroll 1
    for (int start = 0; start < length; start += 16) {
        uint4 (*tile)[64] = tiles[start / 16 % 2];
        wait_for_copies();
        __syncwarp();
        if (start + 16 < length) prefetch(start + 16, tiles[1 - start / 16 % 2]);
        if (stored) {
#pragma unroll
            for (int i = 0; i < 16; i++) kept[i * WIDTH] = h[i];
            kept += 16 * WIDTH;
        }
        bf16* xs = (bf16*)tile[0] + lane;
        bf16* dts = (bf16*)tile[1] + lane;
        bf16* zs = (bf16*)tile[2] + lane;
#pragma unroll 1
        for (int half = 0; half < 16; half += 8) {
            widen(BC, tile[3] + 4 * half, lane);
#pragma unroll 2
            for (int s = 0; s < 8; s++) {
                int t = 32 * (half + s);
                float u = wide(xs[t]), step = step_size(wide(dts[t]) + shift), gate = wide(zs[t]);
                advance(h, rate, step, step * u, BC + 8 * s, order);
                zs[t] = rounded((through * u + read(h, BC + 8 * s + 4, order)) * gate * sigmoid(gate));
            }
        }
        __syncwarp();
        put(out + start * out_step, tile[2], out_step, lane);
        __syncwarp();
    }
    if (after) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            after[of_state + (j ^ order)] = make_float4(h[4 * j], h[4 * j + 1], h[4 * j + 2], h[4 * j + 3]);
    }
}

// Sums of 16 values over the 16 lanes of the same parity: each lane gets one.
DEVICE float exchange(float* v, int lane) {
    const unsigned all = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += __shfl_xor_sync(all, v[8 + i], 16);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] += __shfl_xor_sync(all, v[4 + i], 8);
    bool upper = lane & 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float give = upper ? v[i] : v[2 + i], keep = upper ? v[2 + i] : v[i];
        v[i] = keep + __shfl_xor_sync(all, give, 4);
    }
    upper = lane & 2;
    float give = upper ? v[0] : v[1], keep = upper ? v[1] : v[0];
    return keep + __shfl_xor_sync(all, give, 2);
}

extern "C" __global__ __launch_bounds__(32, 8) void scan_backward(
        const bf16* __restrict__ x, const bf16* __restrict__ dt, const bf16* __restrict__ z,
        const bf16* __restrict__ B, const bf16* __restrict__ C, const float* __restrict__ rates,
        const float* __restrict__ skip, const float* __restrict__ bias, const float* __restrict__ kept,
        const bf16* __restrict__ dout, bf16* __restrict__ dx, bf16* __restrict__ ddt, bf16* __restrict__ dz,
        float* __restrict__ dBC, float* __restrict__ dA, float* __restrict__ dskip, float* __restrict__ dbias,
        long long length, long long x_row, long long x_step, long long dt_row, long long dt_step, long long z_row,
        long long z_step, long long b_row, long long b_step, long long c_row, long long c_step, long long dout_row,
        long long dout_step, long long dx_row, long long dx_step, long long ddt_row, long long ddt_step,
        long long dz_row, long long dz_step) {
    __shared__ __align__(16) uint4 tiles[2][5][64];  // of x, dt, z, dout, B and C; the gradients take their places
    __shared__ __align__(16) float4 BC[64];
    __shared__ __align__(16) float4 before[8][4][32];  // the state before each of 8 tokens
    int lane = threadIdx.x, first = blockIdx.x * 32, channel = first + lane, order = (lane >> 3) & 3;
    int token = lane / 4, part = lane % 4 * 8;  // that a lane copies
    long long row = blockIdx.y;
    x += row * x_row + token * x_step + first + part;
    dt += row * dt_row + token * dt_step + first + part;
    z += row * z_row + token * z_step + first + part;
    dout += row * dout_row + token * dout_step + first + part;
    dx += row * dx_row + token * dx_step + first + part;
    ddt += row * ddt_row + token * ddt_step + first + part;
    dz += row * dz_row + token * dz_step + first + part;
    const bf16* BC_from = part < 16 ? B + row * b_row + token * b_step + part
                                    : C + row * c_row + token * c_step + part - 16;
    long long BC_step = part < 16 ? b_step : c_step;
    // dBC is [rows, length, 16 + 16]; which sum a lane gets follows from how `exchange` halves them.
    dBC += row * length * 32 + 16 * (lane & 1) + 4 * order + 2 * ((lane >> 2) & 1) + ((lane >> 1) & 1);
    kept += row * (length / 16) * 16 * WIDTH + channel;
    float rate[16], grad[16], grad_rate[16], kept_now[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        rate[i] = rates[(((i >> 2) ^ order) * 4 + (i & 3)) * WIDTH + channel];
        kept_now[i] = kept[(length - 16 + i) * WIDTH];
        grad[i] = grad_rate[i] = 0.0f;
    }
    float through = skip[channel], shift = bias[channel], grad_skip = 0.0f, grad_bias = 0.0f;
    auto prefetch = [&](int start, uint4 (*tile)[64]) {
        fetch(tile[0], x + start * x_step, x_step, lane);
        fetch(tile[1], dt + start * dt_step, dt_step, lane);
        fetch(tile[2], z + start * z_step, z_step, lane);
        fetch(tile[3], dout + start * dout_step, dout_step, lane);
        fetch(tile[4], BC_from + start * BC_step, BC_step, lane);
    };
    prefetch(length - 16, tiles[(length / 16 - 1) % 2]);
#pragma unroll 1
    for (int start = length - 16; start >= 0; start -= 16) {
        uint4 (*tile)[64] = tiles[start / 16 % 2];
        wait_for_copies();
        __syncwarp();
        if (start) prefetch(start - 16, tiles[1 - start / 16 % 2]);
        bf16* xs = (bf16*)tile[0] + lane;
        bf16* dts = (bf16*)tile[1] + lane;
        bf16* zs = (bf16*)tile[2] + lane;
        bf16* douts = (bf16*)tile[3] + lane;
#pragma unroll 1
        for (int half = 8; half >= 0; half -= 8) {
            float h[16];
#pragma unroll
            for (int i = 0; i < 16; i++) h[i] = kept_now[i];
            if (half == 0 && start) {
#pragma unroll
                for (int i = 0; i < 16; i++) kept_now[i] = kept[(long long)(start - 16 + i) * WIDTH];
            }
#pragma unroll 1
            for (int early = 0; early <= half; early += 8) {
                widen(BC, tile[4] + 4 * early, lane);
#pragma unroll 4
                for (int s = 0; s < 8; s++) {
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        before[s][j][lane] = make_float4(h[4 * j], h[4 * j + 1], h[4 * j + 2], h[4 * j + 3]);
                    int t = 32 * (early + s);
                    float step = step_size(wide(dts[t]) + shift);
                    advance(h, rate, step, step * wide(xs[t]), BC + 8 * s, order);
                }
            }
#pragma unroll 4
            for (int s = 7; s >= 0; s--) {
                int t = 32 * (half + s);
                float u = wide(xs[t]), before_softplus = wide(dts[t]) + shift, step = step_size(before_softplus);
                float gate = wide(zs[t]), dy = wide(douts[t]);
                float opened = sigmoid(gate), in = step * u, v[16];
                float y = through * u + read(h, BC + 8 * s + 4, order);
                dy *= opened;
                zs[t] = rounded(dy * y * (1.0f + gate * (1.0f - opened)));
                dy *= gate;
#pragma unroll
                for (int i = 0; i < 16; i++) v[i] = dy * h[i];
                float of_c = exchange(v, lane);
                float inflow[4], decayed[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float4 b = BC[8 * s + (j ^ order)], c = BC[8 * s + 4 + (j ^ order)], last = before[s][j][lane];
                    grad[4 * j] += dy * c.x;
                    grad[4 * j + 1] += dy * c.y;
                    grad[4 * j + 2] += dy * c.z;
                    grad[4 * j + 3] += dy * c.w;
                    inflow[j] = grad[4 * j] * b.x + grad[4 * j + 1] * b.y + grad[4 * j + 2] * b.z
                        + grad[4 * j + 3] * b.w;
                    decayed[j] = 0.0f;
                    h[4 * j] = last.x;
                    h[4 * j + 1] = last.y;
                    h[4 * j + 2] = last.z;
                    h[4 * j + 3] = last.w;
#pragma unroll
                    for (int i = 4 * j; i < 4 * j + 4; i++) {
                        v[i] = in * grad[i];
                        grad[i] *= exp2_(step * rate[i]);
                        float past = grad[i] * h[i];
                        decayed[j] += past * rate[i];
                        grad_rate[i] += past * step;
                    }
                }
                float of_b = exchange(v, lane);
                float give = lane & 1 ? of_b : of_c, keep = lane & 1 ? of_c : of_b;
                atomicAdd(dBC + (long long)(start + half + s) * 32, keep + __shfl_xor_sync(0xffffffffu, give, 1));
                float in_all = (inflow[0] + inflow[1]) + (inflow[2] + inflow[3]);
                float past_all = (decayed[0] + decayed[1]) + (decayed[2] + decayed[3]);
                // Not 1 - exp(-step), in which a small step has no digits left.
                float dstep = (past_all * LN2 + in_all * u) * sigmoid(before_softplus);
                xs[t] = rounded(in_all * step + through * dy);
                dts[t] = rounded(dstep);
                grad_skip += dy * u;
                grad_bias += dstep;
            }
        }
        __syncwarp();
        put(dx + start * dx_step, tile[0], dx_step, lane);
        put(ddt + start * ddt_step, tile[1], ddt_step, lane);
        put(dz + start * dz_step, tile[2], dz_step, lane);
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < 16; i++)
        atomicAdd(dA + (((i >> 2) ^ order) * 4 + (i & 3)) * WIDTH + channel, grad_rate[i]);
    atomicAdd(dskip + channel, grad_skip);
    atomicAdd(dbias + channel, grad_bias);
}
