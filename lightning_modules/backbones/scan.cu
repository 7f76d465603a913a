// The selective scan of Mamba-1 for training: 16 states a channel, bfloat16 in and out. See scan_cuda.py.
//
// A warp takes 32 channels of one row through time: a lane has one channel, its 16 states in registers. Sums over the
// states stay in a lane; sums over the channels, the gradients of B and C, are exchanges between lanes. So that of two
// lanes that exchange each sends its last half, lanes differ in the order of their states: the j-th group of four of
// a lane is group j ^ order, order = (lane >> 3) & 3. `kept` has the states in the lanes' orders.
//
// x, dt, z, out and their gradients: element (channel, row, t) at channel * _channel + row * _row + t.
// B, C: element (row, t, n) at row * _row + t * _step + n. rates: A log2(e), [16, width]. length is a multiple of 16.

#ifndef EMULATED
typedef unsigned short bf16;
#define DEVICE __device__ __forceinline__
DEVICE float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float log2_(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float inverse(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE unsigned pair(float low, float high) {
    unsigned y; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)); return y;
}
#endif

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

DEVICE float low(unsigned two) { return __uint_as_float(two << 16); }
DEVICE float high(unsigned two) { return __uint_as_float(two & 0xffff0000u); }
DEVICE float sigmoid(float x) { return inverse(1.0f + exp2_(-LOG2E * x)); }

DEVICE float softplus(float x) {
    float e = exp2_(LOG2E * x);
    float few = e * (1.0f - e * (0.5f - e * (0.33333333f - e * (0.25f - e * 0.2f))));  // log(1 + e) of a small e
    return x > 20.0f ? x : e < 0.0625f ? few : LN2 * log2_(1.0f + e);
}

DEVICE float element(const uint4& eight, int i) {  // i is known when this is compiled
    unsigned two = i < 2 ? eight.x : i < 4 ? eight.y : i < 6 ? eight.z : eight.w;
    return i % 2 ? high(two) : low(two);
}

// 8 tokens of B and C to shared memory, [8][16 + 16] in float32: each lane takes 8 values of a token.
DEVICE void stage(float* shared, const bf16* B, const bf16* C, long long b_step, long long c_step, int lane) {
    int token = lane / 4, part = lane % 4;
    const bf16* from = part < 2 ? B + token * b_step + 8 * part : C + token * c_step + 8 * (part - 2);
    uint4 eight = *(const uint4*)from;
    float4* to = (float4*)(shared + token * 32 + 8 * part);
    __syncwarp();
    to[0] = make_float4(low(eight.x), high(eight.x), low(eight.y), high(eight.y));
    to[1] = make_float4(low(eight.z), high(eight.z), low(eight.w), high(eight.w));
    __syncwarp();
}

extern "C" __global__ __launch_bounds__(32) void scan_forward(
        const bf16* __restrict__ x, const bf16* __restrict__ dt, const bf16* __restrict__ z,
        const bf16* __restrict__ B, const bf16* __restrict__ C, const float* __restrict__ rates,
        const float* __restrict__ skip, const float* __restrict__ bias, bf16* __restrict__ out,
        float* __restrict__ kept, long long length, long long width, long long x_row, long long x_channel, long long dt_row,
        long long dt_channel, long long z_row, long long z_channel, long long b_row, long long b_step, long long c_row,
        long long c_step, long long out_row, long long out_channel) {
    __shared__ __align__(16) float shared[8 * 32];
    int lane = threadIdx.x, channel = blockIdx.x * 32 + lane, order = (lane >> 3) & 3;
    long long row = blockIdx.y;
    x += row * x_row + channel * x_channel;
    dt += row * dt_row + channel * dt_channel;
    z += row * z_row + channel * z_channel;
    out += row * out_row + channel * out_channel;
    B += row * b_row;
    C += row * c_row;
    bool stored = kept;
    kept += row * (length / 16) * 16 * width + channel;
    float rate[16], h[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        rate[i] = rates[(((i >> 2) ^ order) * 4 + (i & 3)) * width + channel];
        h[i] = 0.0f;
    }
    float through = skip[channel], shift = bias[channel];
#pragma unroll 1
    for (int start = 0; start < length; start += 8) {
        if (stored && start % 16 == 0) {
#pragma unroll
            for (int i = 0; i < 16; i++) kept[i * width] = h[i];
            kept += 16 * width;
        }
        uint4 xs = *(const uint4*)(x + start), dts = *(const uint4*)(dt + start), zs = *(const uint4*)(z + start);
        stage(shared, B + start * b_step, C + start * c_step, b_step, c_step, lane);
        unsigned packed[4];
#pragma unroll
        for (int s = 0; s < 8; s++) {
            float u = element(xs, s), step = softplus(element(dts, s) + shift), gate = element(zs, s);
            float in = step * u, y[4];
            const float4* now = (const float4*)(shared + s * 32);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float4 b = now[j ^ order], c = now[4 + (j ^ order)];
                h[4 * j] = h[4 * j] * exp2_(step * rate[4 * j]) + in * b.x;
                h[4 * j + 1] = h[4 * j + 1] * exp2_(step * rate[4 * j + 1]) + in * b.y;
                h[4 * j + 2] = h[4 * j + 2] * exp2_(step * rate[4 * j + 2]) + in * b.z;
                h[4 * j + 3] = h[4 * j + 3] * exp2_(step * rate[4 * j + 3]) + in * b.w;
                y[j] = h[4 * j] * c.x + h[4 * j + 1] * c.y + h[4 * j + 2] * c.z + h[4 * j + 3] * c.w;
            }
            float value = (through * u + ((y[0] + y[1]) + (y[2] + y[3]))) * gate * sigmoid(gate);
            if (s % 2) packed[s / 2] = pair(__uint_as_float(packed[s / 2]), value);
            else packed[s / 2] = __float_as_uint(value);
        }
        *(uint4*)(out + start) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
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

extern "C" __global__ __launch_bounds__(32, 12) void scan_backward(
        const bf16* __restrict__ x, const bf16* __restrict__ dt, const bf16* __restrict__ z,
        const bf16* __restrict__ B, const bf16* __restrict__ C, const float* __restrict__ rates,
        const float* __restrict__ skip, const float* __restrict__ bias, const float* __restrict__ kept,
        const bf16* __restrict__ dout, bf16* __restrict__ dx, bf16* __restrict__ ddt, bf16* __restrict__ dz,
        float* __restrict__ dBC, float* __restrict__ drates, float* __restrict__ dskip, float* __restrict__ dbias,
        long long length, long long width, long long x_row, long long x_channel, long long dt_row, long long dt_channel,
        long long z_row, long long z_channel, long long b_row, long long b_step, long long c_row, long long c_step,
        long long dout_row, long long dout_channel, long long dx_row, long long dx_channel, long long ddt_row,
        long long ddt_channel, long long dz_row, long long dz_channel) {
    __shared__ __align__(16) float shared[8 * 32];
    __shared__ __align__(16) float4 before[8][4][32];  // the state before each of 8 tokens
    int lane = threadIdx.x, channel = blockIdx.x * 32 + lane, order = (lane >> 3) & 3;
    long long row = blockIdx.y;
    x += row * x_row + channel * x_channel;
    dt += row * dt_row + channel * dt_channel;
    z += row * z_row + channel * z_channel;
    dout += row * dout_row + channel * dout_channel;
    dx += row * dx_row + channel * dx_channel;
    ddt += row * ddt_row + channel * ddt_channel;
    dz += row * dz_row + channel * dz_channel;
    B += row * b_row;
    C += row * c_row;
    // dBC is [rows, length, 16 + 16]; which sum a lane gets follows from how `exchange` halves them.
    int mine = 4 * order + 2 * ((lane >> 2) & 1) + ((lane >> 1) & 1);
    dBC += row * length * 32 + 16 * (lane & 1) + mine;
    kept += row * (length / 16) * 16 * width + channel;
    float rate[16], grad[16], grad_rate[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        rate[i] = rates[(((i >> 2) ^ order) * 4 + (i & 3)) * width + channel];
        grad[i] = grad_rate[i] = 0.0f;
    }
    float through = skip[channel], shift = bias[channel], grad_skip = 0.0f, grad_bias = 0.0f;
#pragma unroll 1
    for (int start = length - 8; start >= 0; start -= 8) {
        float h[16];
        const float* from = kept + (long long)(start / 16) * 16 * width;
#pragma unroll
        for (int i = 0; i < 16; i++) h[i] = from[i * width];
        if (start % 16) {  // the states are kept before every 16th token: go through the 8 before
            uint4 xs = *(const uint4*)(x + start - 8), dts = *(const uint4*)(dt + start - 8);
            stage(shared, B + (start - 8) * b_step, C + (start - 8) * c_step, b_step, c_step, lane);
#pragma unroll
            for (int s = 0; s < 8; s++) {
                float step = softplus(element(dts, s) + shift), in = step * element(xs, s);
                const float4* now = (const float4*)(shared + s * 32);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float4 b = now[j ^ order];
                    h[4 * j] = h[4 * j] * exp2_(step * rate[4 * j]) + in * b.x;
                    h[4 * j + 1] = h[4 * j + 1] * exp2_(step * rate[4 * j + 1]) + in * b.y;
                    h[4 * j + 2] = h[4 * j + 2] * exp2_(step * rate[4 * j + 2]) + in * b.z;
                    h[4 * j + 3] = h[4 * j + 3] * exp2_(step * rate[4 * j + 3]) + in * b.w;
                }
            }
        }
        uint4 xs = *(const uint4*)(x + start), dts = *(const uint4*)(dt + start);
        stage(shared, B + start * b_step, C + start * c_step, b_step, c_step, lane);
        float steps[8];
#pragma unroll
        for (int s = 0; s < 8; s++) {
            float step = steps[s] = softplus(element(dts, s) + shift), in = step * element(xs, s);
            const float4* now = (const float4*)(shared + s * 32);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                before[s][j][lane] = make_float4(h[4 * j], h[4 * j + 1], h[4 * j + 2], h[4 * j + 3]);
                float4 b = now[j ^ order];
                h[4 * j] = h[4 * j] * exp2_(step * rate[4 * j]) + in * b.x;
                h[4 * j + 1] = h[4 * j + 1] * exp2_(step * rate[4 * j + 1]) + in * b.y;
                h[4 * j + 2] = h[4 * j + 2] * exp2_(step * rate[4 * j + 2]) + in * b.z;
                h[4 * j + 3] = h[4 * j + 3] * exp2_(step * rate[4 * j + 3]) + in * b.w;
            }
        }
        uint4 zs = *(const uint4*)(z + start), douts = *(const uint4*)(dout + start);
        unsigned dxs[4], ddts[4], dzs[4];
#pragma unroll
        for (int s = 7; s >= 0; s--) {
            float u = element(xs, s), step = steps[s], gate = element(zs, s), dy = element(douts, s);
            // The lane's own value: else the compiler would keep the decays of 8 tokens from above, in too many registers.
            step = __shfl_sync(0xffffffffu, step, lane);
            float opened = sigmoid(gate), in = step * u, sum[4], v[16];
            const float4* now = (const float4*)(shared + s * 32);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float4 c = now[4 + (j ^ order)];
                sum[j] = h[4 * j] * c.x + h[4 * j + 1] * c.y + h[4 * j + 2] * c.z + h[4 * j + 3] * c.w;
            }
            float y = through * u + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
            float out = dy * opened, dgate = out * y * (1.0f + gate * (1.0f - opened));
            dy = out * gate;
#pragma unroll
            for (int i = 0; i < 16; i++) v[i] = dy * h[i];
            float of_c = exchange(v, lane);
            float inflow[4], decayed[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float4 b = now[j ^ order], c = now[4 + (j ^ order)], last = before[s][j][lane];
                grad[4 * j] += dy * c.x;
                grad[4 * j + 1] += dy * c.y;
                grad[4 * j + 2] += dy * c.z;
                grad[4 * j + 3] += dy * c.w;
                inflow[j] = grad[4 * j] * b.x + grad[4 * j + 1] * b.y + grad[4 * j + 2] * b.z + grad[4 * j + 3] * b.w;
                decayed[j] = 0.0f;
                h[4 * j] = last.x;
                h[4 * j + 1] = last.y;
                h[4 * j + 2] = last.z;
                h[4 * j + 3] = last.w;
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int i = 4 * j + k;
                    v[i] = in * grad[i];
                    grad[i] *= exp2_(step * rate[i]);
                    float past = grad[i] * h[i];
                    decayed[j] += past * rate[i];
                    grad_rate[i] += past * step;
                }
            }
            float of_b = exchange(v, lane);
            float give = lane & 1 ? of_b : of_c, keep = lane & 1 ? of_c : of_b;
            atomicAdd(dBC + (long long)(start + s) * 32, keep + __shfl_xor_sync(0xffffffffu, give, 1));
            float in_all = (inflow[0] + inflow[1]) + (inflow[2] + inflow[3]);
            float past_all = (decayed[0] + decayed[1]) + (decayed[2] + decayed[3]);
            // The derivative of softplus is 1 - exp(-softplus).
            float dstep = (past_all * LN2 + in_all * u) * (1.0f - exp2_(-LOG2E * step));
            float du = in_all * step + through * dy;
            grad_skip += dy * u;
            grad_bias += dstep;
            if (s % 2) {
                dxs[s / 2] = __float_as_uint(du);
                ddts[s / 2] = __float_as_uint(dstep);
                dzs[s / 2] = __float_as_uint(dgate);
            } else {
                dxs[s / 2] = pair(du, __uint_as_float(dxs[s / 2]));
                ddts[s / 2] = pair(dstep, __uint_as_float(ddts[s / 2]));
                dzs[s / 2] = pair(dgate, __uint_as_float(dzs[s / 2]));
            }
        }
        *(uint4*)(dx + start) = make_uint4(dxs[0], dxs[1], dxs[2], dxs[3]);
        *(uint4*)(ddt + start) = make_uint4(ddts[0], ddts[1], ddts[2], ddts[3]);
        *(uint4*)(dz + start) = make_uint4(dzs[0], dzs[1], dzs[2], dzs[3]);
    }
#pragma unroll
    for (int i = 0; i < 16; i++)
        atomicAdd(drates + (((i >> 2) ^ order) * 4 + (i & 3)) * width + channel, grad_rate[i]);
    atomicAdd(dskip + channel, grad_skip);
    atomicAdd(dbias + channel, grad_bias);
}
