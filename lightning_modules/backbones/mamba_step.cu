// All layers of one decoding step of Mamba, for at most 64 rows, as one kernel whose blocks wait for each other. See
// mamba_step.py, which says how the weights are arranged.
//
// Every multiprocessor has one block. A block has 32 of the rows (`half` says which) and 24 of the channels (`group`):
// their x and z, convolution, step size and states; in the last phase 16 of the stream's columns. A layer has three
// phases, each ended by a barrier of all blocks:
//   A  x and z from the stream, the convolution, and what these channels add to the selection (low-rank step, B, C);
//   B  step sizes, states, y;
//   C  the stream's columns from all of y, and the rows' sums of squares.
// Between its arrival at a barrier and the wait for the others a block asks for the weights and states of its next
// phase, into registers: after the barrier only what other blocks have written remains to be read.
//
// Products are mma's of 16 x 8 x 16, whose terms the warps divide between them.
//
// Two runs give the same bits. What all blocks add to the selection is added up in memory in any order, but as integers
// of 64 bits, in units of 2^-32; a block's part that is 2^17 or more, or not a number, makes the sum not a number. Of
// the rows' sums of squares every block leaves its part in a place of its own.
//
// Who compiles this defines WIDTH (of the stream), INNER (channels), RANK (of the step size), WARPS, EPS (of the norm)
// and STATE_BYTES (2: bfloat16, 4: float). Needs compute capability 9.0, and all blocks at once on the device.

#ifndef EMULATED
#define SHARED(type, name) __shared__ type name

// What only this thread writes.
DEVICE uint4 own16(const void* from) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// What follows from it is computed again, not kept in registers from before.
DEVICE void forget(int& x) { asm volatile("" : "+r"(x)); }

DEVICE void add_to(unsigned long long* to, unsigned long long value) {
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" :: "l"(to), "l"(value) : "memory");
}

DEVICE void signal(unsigned* counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(counter) : "memory");
}
DEVICE unsigned signals(const unsigned* counter) {
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(counter) : "memory");
    return v;
}
#endif

// A part of a sum, and the sum of at most 64 parts: below 2^17 each, they stay below 2^55 in units of 2^-32; one that
// is not stands for 2^56, which no others bring back below 2^55.
DEVICE unsigned long long part_of_sum(float x) {
    return fabsf(x) < 131072.0f ? (unsigned long long)__float2ll_rn(x * 4294967296.0f) : 1ull << 56;
}
DEVICE float whole_sum(unsigned lower, unsigned upper) {
    float sum = __ll2float_rn((long long)((unsigned long long)upper << 32 | lower)) * (1.0f / 4294967296.0f);
    return upper + (1u << 23) < 1u << 24 ? sum : __uint_as_float(0x7fffffffu);
}

constexpr int SIZE = 16;                               // states of a channel
constexpr int ROWS = 64, HALF = 32;                    // rows of the kernel and of a block
constexpr int CHANNELS = 24, COLUMNS = 16;             // of a block, inside and of the stream
constexpr int THREADS = 32 * WARPS;
constexpr int GROUPS = INNER / CHANNELS, BLOCKS = 2 * GROUPS, LEAVING = WIDTH / COLUMNS;
constexpr int SELECTED = RANK + 2 * SIZE;              // width of the selection
constexpr int PAIRS = HALF * CHANNELS;                 // of a row and a channel
constexpr int OWN = PAIRS / THREADS;                   // pairs that a thread has the x and z of
constexpr int TILES = CHANNELS / 8;                    // of 8 channels
constexpr int INWARDS = WIDTH / 32 / WARPS, OUTWARDS = INNER / 32 / WARPS;     // times 32 terms, for a warp
constexpr int TAKEN = HALF * SELECTED / 2;              // of the selection, two at a time
constexpr int SELECTS = SELECTED / 8, SELECT_EACH = (SELECTS + WARPS / 2 - 1) / (WARPS / 2);
constexpr int RANKS = (RANK + 31) / 32, STEP_EACH = (2 * TILES + WARPS - 1) / WARPS;
constexpr int SMALL = 7 * CHANNELS + CHANNELS * SIZE;  // taps, bias, bias of the step, skip, rates
constexpr int SQUARERS = THREADS / HALF, SQUARES_EACH = (LEAVING / 4 + SQUARERS - 1) / SQUARERS;
constexpr int OUT_EACH = HALF * COLUMNS / 2 / THREADS;
constexpr int STATE_LOADS = STATE_BYTES / 2;           // of 16 bytes, for 8 states
constexpr int IN_BYTES = WIDTH / 32 * 2 * TILES * 512, OUT_BYTES = INNER / 32 * 2 * 512;

// body(i, k) for i < COUNT, the k-th of this thread; without a loop whose length only some thread knows.
template <int COUNT, class Body> DEVICE void each(int tid, Body body) {
#pragma unroll
    for (int k = 0; k < (COUNT + THREADS - 1) / THREADS; k++) {
        int i = tid + k * THREADS;
        if ((k + 1) * THREADS <= COUNT || i < COUNT) body(i, k);
    }
}

static_assert(INNER % CHANNELS == 0 && WIDTH % (32 * WARPS) == 0 && INNER % (32 * WARPS) == 0 && WARPS % 2 == 0
              && HALF % WARPS == 0, "");
static_assert(RANK % 8 == 0 && LEAVING <= GROUPS && GROUPS <= 64 && LEAVING % 4 == 0 && PAIRS % THREADS == 0
              && HALF * COLUMNS / 2 % THREADS == 0, "");
static_assert(STATE_BYTES == 2 || STATE_BYTES == 4, "");

struct __align__(16) Shared {
    union {
        // Sums of the warps: in A those of x and z of two warps each, [2, HALF, CHANNELS]; in C mma's results, a float4
        // for each lane, [4, 32].
        float parts[WARPS / 2][2 * PAIRS];
        struct {                                       // in B
            bf16 low_rank[2][HALF][RANK];              // what its rounding has left is the second
            float ends[HALF][2 * SIZE];                // B and C
            float step[PAIRS];
        };
    };
    float small[SMALL];
    uint4 select[SELECTS * 32];                        // weights
    float gate[PAIRS], squares[HALF];
    float2 residual[HALF * COLUMNS / 2];
    bf16 u[PAIRS];
    bf16 before[HALF][3][CHANNELS];                    // inputs of the convolution, the oldest first
};
static_assert(sizeof(Shared) <= 48 * 1024 && WARPS * 4 * 32 * 4 <= WARPS / 2 * 2 * PAIRS, "");

// inwards [layers, GROUPS, WIDTH / 32, 2 TILES, 32], select [layers, GROUPS, SELECTS, 32], steps [layers, GROUPS,
// TILES, RANKS, 32] and outwards [layers, LEAVING, INNER / 32, 2, 32], 8 weights a lane; small [layers, GROUPS, SMALL].
// stream [ROWS, WIDTH], hidden [rows, WIDTH] and squares [2, ROWS, LEAVING]: a row's sum of squares in LEAVING parts,
// before the first layer, given, and after the last; selection [2, ROWS, SELECTED], zero before and after;
// y [ROWS, INNER]; recent [layers, rows, 3, INNER]; state [layers, rows, INNER, SIZE]; clock [1]; counter [1]: arrivals
// at barriers, zero before and after.
extern "C" __global__ __launch_bounds__(THREADS, 1) void mamba_step(
        const uint4* __restrict__ inwards, const uint4* __restrict__ select, const uint4* __restrict__ steps,
        const uint4* __restrict__ outwards, const float* __restrict__ small, bf16* stream, const float* hidden,
        float* squares, unsigned long long* selection, bf16* y, bf16* recent, char* state, const int* clock,
        unsigned* counter, long long layers, long long row_count) {
    SHARED(Shared, s);
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int half = blockIdx.x % 2, group = blockIdx.x / 2, first = half * HALF;
    const int rows = (int)row_count;
    const bool alive = first < rows, leaves = group < LEAVING && alive;
    const int oldest = *clock % 3;
    unsigned target = 0;

    // Pairs, row by row. A thread owns OWN of them; two neighbours share the states of what both own, 8 of each pair.
    auto owned = [&](int i) { return 32 * (warp * OWN + i) + 16 * (lane % 2) + lane / 2; };
    auto shared_pair = [&](int j) { return 32 * (warp * OWN + j / 2) + 16 * (j % 2) + lane / 2; };
    auto inside = [&](int pair) { return first + pair / CHANNELS < rows; };
    auto recent_at = [&](int layer, int row, int slot) {
        return recent + (((long long)layer * rows + first + row) * 3 + slot) * INNER + group * CHANNELS;
    };
    auto states_of = [&](int layer, int row) {
        return state + (((long long)layer * rows + first + row) * INNER + group * CHANNELS) * SIZE * STATE_BYTES;
    };
    auto states_at = [&](int layer, int pair) {
        return states_of(layer, pair / CHANNELS) + (pair % CHANNELS * SIZE + 8 * (lane % 2)) * STATE_BYTES;
    };

    auto arrive = [&]() {
        __syncthreads();
        if (tid == 0) signal(counter);
        target += BLOCKS;
    };
    auto wait = [&]() {
        if (tid == 0)
            while (signals(counter) < target) {}
        __syncthreads();
        forget(tid);
        forget(warp);
        forget(lane);
    };

    // To the L2 cache, from memory, all that a layer will need: the two halves of the rows share the weights. A warp
    // asks for one lane after the other, so that all warps take part.
    auto ahead = [&](int layer) {
        long long part = (long long)layer * GROUPS + group;
#pragma unroll 1
        for (int job = warp; job < 4; job += WARPS) {
            if (lane > 0) continue;
            if (job == 0 && half == 0) to_l2(small + part * SMALL, SMALL * 4);
            if (job == 1) to_l2((const char*)inwards + part * IN_BYTES + half * (IN_BYTES / 2), IN_BYTES / 2);
            if (job == 2 && group < LEAVING)
                to_l2((const char*)outwards + ((long long)layer * LEAVING + group) * OUT_BYTES + half * (OUT_BYTES / 2),
                      OUT_BYTES / 2);
            if (job == 3 && half == 0) to_l2(select + part * SELECTS * 32, SELECTS * 512);
            if (job == 3 && half == 1) to_l2(steps + part * TILES * RANKS * 32, TILES * RANKS * 512);
        }
        int row = warp * (HALF / WARPS) + lane;
        if (lane < HALF / WARPS && first + row < rows)
            to_l2(states_of(layer, row), CHANNELS * SIZE * STATE_BYTES);
    };

    // Of phase A.
    uint4 in_weight[INWARDS][2 * TILES];
    auto fetch_inwards = [&](int layer) {  // without a condition, or the registers would also have to keep what was
        long long part = (long long)layer * GROUPS + group;
        const uint4* from = inwards + (part * (WIDTH / 32) + warp * INWARDS) * (2 * TILES * 32) + lane;
#pragma unroll
        for (int k = 0; k < INWARDS; k++)
#pragma unroll
            for (int n = 0; n < 2 * TILES; n++) in_weight[k][n] = fixed(from + (k * 2 * TILES + n) * 32);
        each<SMALL / 4>(tid, [&](int i, int) { copy_later((uint4*)s.small + i, small + part * SMALL + 4 * i); });
        each<SELECTS * 32>(tid, [&](int i, int) { copy_later(s.select + i, select + part * SELECTS * 32 + i); });
        each<HALF * 9>(tid, [&](int i, int) {  // 3 inputs of 48 bytes a row
            int row = i / 9, tap = i % 9 / 3, eighth = i % 3 * 8;
            if (first + row < rows)
                copy_later((uint4*)(s.before[row][tap] + eighth),
                           recent_at(layer, row, (oldest + tap) % 3) + eighth);
        });
    };

    // Of phase B.
    auto fetch_states = [&](uint4 (&states)[2 * OWN][STATE_LOADS], uint4 (&step_weight)[STEP_EACH][RANKS], int layer) {
        long long part = (long long)layer * GROUPS + group;
#pragma unroll
        for (int i = 0; i < STEP_EACH; i++) {
            int tile = min(warp + i * WARPS, 2 * TILES - 1);
#pragma unroll
            for (int k = 0; k < RANKS; k++)
                step_weight[i][k] = fixed(steps + ((part * TILES + tile / 2) * RANKS + k) * 32 + lane);
        }
#pragma unroll
        for (int j = 0; j < 2 * OWN; j++)
#pragma unroll
            for (int i = 0; i < STATE_LOADS; i++)
                states[j][i] = inside(shared_pair(j)) ? own16(states_at(layer, shared_pair(j)) + 16 * i)
                                                      : make_uint4(0, 0, 0, 0);
    };

    // Of phase C.
    auto fetch_outwards = [&](uint4 (&out_weight)[OUTWARDS][2], int layer) {
        const uint4* from = outwards + (((long long)layer * LEAVING + group) * (INNER / 32) + warp * OUTWARDS) * 64
                            + lane;
#pragma unroll
        for (int k = 0; k < OUTWARDS; k++)
#pragma unroll
            for (int n = 0; n < 2; n++) out_weight[k][n] = fixed(from + (k * 2 + n) * 32);
    };

    // Two neighbouring columns of the residual stream stay with a thread, in float32; the eight threads of a row are
    // neighbours.
    auto row_of = [&](int item) { return item / 8; };
    auto column_of = [&](int item) { return group * COLUMNS + item % 8 * 2; };
    each<HALF * COLUMNS / 2>(tid, [&](int item, int) {
        int row = first + row_of(item);
        s.residual[item] = leaves && row < rows ? *(const float2*)(hidden + row * WIDTH + column_of(item))
                                                : make_float2(0.0f, 0.0f);
    });

    ahead(0);
    fetch_inwards(0);
#pragma unroll 1
    for (int layer = 0; layer < layers; layer++) {
        float u[OWN];
        unsigned long long* sums = selection + layer % 2 * (ROWS * SELECTED);

        // Phase A.
        if (alive) {
            const int g = lane / 4, t = lane % 4;
            uint4 rows_of_stream[2][INWARDS][2];
            const bf16* from = stream + (first + g) * WIDTH + warp * INWARDS * 32 + 8 * t;
#pragma unroll
            for (int k = 0; k < INWARDS; k++)
#pragma unroll
                for (int m = 0; m < 4; m++) rows_of_stream[m / 2][k][m % 2] = fresh16(from + 8 * m * WIDTH + 32 * k);
            // Sums of squares: SQUARERS neighbours have a row.
            const float* squares_from = squares + (min(layer, 1) * ROWS + first + tid / SQUARERS) * LEAVING;
            uint4 some_squares[SQUARES_EACH];
#pragma unroll
            for (int i = 0; i < SQUARES_EACH; i++) {
                int place = tid % SQUARERS + i * SQUARERS;
                some_squares[i] = place < LEAVING / 4 ? fresh16(squares_from + 4 * place) : make_uint4(0, 0, 0, 0);
            }
            float c[2][2 * TILES][4] = {};
#pragma unroll
            for (int k = 0; k < 2 * INWARDS; k++)
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int n = 0; n < 2 * TILES; n++)
                        multiply(c[m][n], rows_of_stream[m][k / 2][0], rows_of_stream[m][k / 2][1],
                                 in_weight[k / 2][n], k % 2);
            float square = 0.0f;
#pragma unroll
            for (int i = 0; i < SQUARES_EACH; i++)
                square += (__uint_as_float(some_squares[i].x) + __uint_as_float(some_squares[i].y))
                          + (__uint_as_float(some_squares[i].z) + __uint_as_float(some_squares[i].w));
#pragma unroll
            for (int other = SQUARERS / 2; other > 0; other /= 2) square += __shfl_xor_sync(0xffffffffu, square, other);
            if (tid % SQUARERS == 0) s.squares[tid / SQUARERS] = square;
            float* part = s.parts[warp % (WARPS / 2)];
            auto place = [&](int m, int n, int lower) {
                return (float2*)(part + n / TILES * PAIRS + (16 * m + 8 * lower + g) * CHANNELS + n % TILES * 8
                                 + 2 * t);
            };
            if (warp < WARPS / 2)
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int n = 0; n < 2 * TILES; n++) {
                        *place(m, n, 0) = make_float2(c[m][n][0], c[m][n][1]);
                        *place(m, n, 1) = make_float2(c[m][n][2], c[m][n][3]);
                    }
            __syncthreads();
            if (warp >= WARPS / 2)
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int n = 0; n < 2 * TILES; n++) {
                        float2 upper = *place(m, n, 0), lower = *place(m, n, 1);
                        *place(m, n, 0) = make_float2(upper.x + c[m][n][0], upper.y + c[m][n][1]);
                        *place(m, n, 1) = make_float2(lower.x + c[m][n][2], lower.y + c[m][n][3]);
                    }
            wait_for_copies();
            __syncthreads();
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                int pair = owned(i), channel = pair % CHANNELS;
                float x = 0.0f, z = 0.0f;
#pragma unroll
                for (int w = 0; w < WARPS / 2; w++) {
                    x += s.parts[w][pair];
                    z += s.parts[w][PAIRS + pair];
                }
                float by = inverse_root(s.squares[pair / CHANNELS] * (1.0f / WIDTH) + EPS);
                x *= by;
                z *= by;
                float value = s.small[4 * CHANNELS + channel];
#pragma unroll
                for (int tap = 0; tap < 3; tap++)
                    value += s.small[tap * CHANNELS + channel] * wide(s.before[pair / CHANNELS][tap][channel]);
                value += s.small[3 * CHANNELS + channel] * x;
                if (inside(pair)) recent_at(layer, pair / CHANNELS, oldest)[channel] = rounded(x);
                u[i] = value * sigmoid(value);
                s.gate[pair] = z * sigmoid(z);
                s.u[pair] = rounded(u[i]);
            }
            __syncthreads();
            // 24 terms of 32: the last of the four lanes of a row has none.
            const bf16* line = s.u + (16 * (warp % 2) + g) * CHANNELS + 8 * t;
            uint4 nothing = make_uint4(0, 0, 0, 0);
            uint4 upper = t < TILES ? *(const uint4*)line : nothing;
            uint4 lower = t < TILES ? *(const uint4*)(line + 8 * CHANNELS) : nothing;
#pragma unroll
            for (int i = 0; i < SELECT_EACH; i++) {
                int tile = warp / 2 + i * (WARPS / 2);
                if (tile >= SELECTS) continue;
                float d[4] = {};
                multiply(d, upper, lower, s.select[tile * 32 + lane]);
                // The weights are in such an order that a lane has columns t and 4 + t: its neighbours' are beside.
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    int row = first + 16 * (warp % 2) + g + j / 2 * 8;
                    if (row < rows) add_to(sums + row * SELECTED + tile * 8 + j % 2 * 4 + t, part_of_sum(d[j]));
                }
            }
        }
        arrive();
        uint4 states[2 * OWN][STATE_LOADS], step_weight[STEP_EACH][RANKS];
        fetch_states(states, step_weight, layer);
        if (layer + 1 < layers) ahead(layer + 1);
        wait();

        // Phase B.
        if (alive) {
            const int g = lane / 4, t = lane % 4, side = lane % 2;
            uint4 taken[(TAKEN + THREADS - 1) / THREADS];
            each<TAKEN>(tid, [&](int i, int k) { taken[k] = fresh16(sums + first * SELECTED + 2 * i); });
            each<TAKEN>(tid, [&](int i, int k) {
                uint4 two = taken[k];
                float x = whole_sum(two.x, two.y), y = whole_sum(two.z, two.w);
                int row = i / (SELECTED / 2), column = i % (SELECTED / 2) * 2;
                if (column >= RANK) {
                    *(float2*)&s.ends[row][column - RANK] = make_float2(x, y);
                } else {  // in two parts, so that a product with both is one in float32
                    unsigned whole = both(x, y);
                    *(unsigned*)&s.low_rank[0][row][column] = whole;
                    *(unsigned*)&s.low_rank[1][row][column] = both(x - low(whole), y - high(whole));
                }
            });
            __syncthreads();
#pragma unroll
            for (int i = 0; i < STEP_EACH; i++) {
                int tile = warp + i * WARPS, m = tile % 2, n = tile / 2;
                if (tile >= 2 * TILES) continue;
                float d[4] = {};
#pragma unroll
                for (int k = 0; k < 2 * RANKS; k++) {
                    bool some = 32 * (k / 2) + 8 * t < RANK;
                    const bf16* line = &s.low_rank[k % 2][16 * m + g][32 * (k / 2) + 8 * t];
                    uint4 nothing = make_uint4(0, 0, 0, 0);
                    uint4 upper = some ? *(const uint4*)line : nothing;
                    uint4 lower = some ? *(const uint4*)(line + 8 * RANK) : nothing;
                    multiply(d, upper, lower, step_weight[i][k / 2]);
                }
                float* to = s.step + (16 * m + g) * CHANNELS + n * 8 + 2 * t;
                *(float2*)to = make_float2(d[0], d[1]);
                *(float2*)(to + 8 * CHANNELS) = make_float2(d[2], d[3]);
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                int pair = owned(i);
                float step = softplus(s.step[pair] + s.small[5 * CHANNELS + pair % CHANNELS]), in = step * u[i];
                float other_step = __shfl_xor_sync(0xffffffffu, step, 1);
                float other_in = __shfl_xor_sync(0xffffffffu, in, 1);
                float result = s.small[6 * CHANNELS + pair % CHANNELS] * u[i];
#pragma unroll
                for (int whose = 0; whose < 2; whose++) {  // the even neighbour's pair, the odd one's
                    int j = 2 * i + whose, both_have = shared_pair(j);
                    float step_ = whose == side ? step : other_step, in_ = whose == side ? in : other_in;
                    const float4* B = (const float4*)(s.ends[both_have / CHANNELS] + 8 * side);
                    const float4* C = B + SIZE / 4;
                    const float4* rate = (const float4*)(s.small + 7 * CHANNELS + both_have % CHANNELS * SIZE
                                                         + 8 * side);
                    float h[8], sum = 0.0f;
                    if (STATE_BYTES == 2) {
                        uint4 eight = states[j][0];
                        h[0] = low(eight.x), h[1] = high(eight.x), h[2] = low(eight.y), h[3] = high(eight.y);
                        h[4] = low(eight.z), h[5] = high(eight.z), h[6] = low(eight.w), h[7] = high(eight.w);
                    } else {
#pragma unroll
                        for (int q = 0; q < 2; q++) {
                            uint4 four = states[j][q % STATE_LOADS];
                            h[4 * q] = __uint_as_float(four.x), h[4 * q + 1] = __uint_as_float(four.y);
                            h[4 * q + 2] = __uint_as_float(four.z), h[4 * q + 3] = __uint_as_float(four.w);
                        }
                    }
#pragma unroll
                    for (int q = 0; q < 2; q++) {
                        float4 r = rate[q], b = B[q], c = C[q];
                        h[4 * q] = exp2_(step_ * r.x) * h[4 * q] + in_ * b.x;
                        h[4 * q + 1] = exp2_(step_ * r.y) * h[4 * q + 1] + in_ * b.y;
                        h[4 * q + 2] = exp2_(step_ * r.z) * h[4 * q + 2] + in_ * b.z;
                        h[4 * q + 3] = exp2_(step_ * r.w) * h[4 * q + 3] + in_ * b.w;
                        sum += (h[4 * q] * c.x + h[4 * q + 1] * c.y) + (h[4 * q + 2] * c.z + h[4 * q + 3] * c.w);
                    }
                    if (inside(both_have)) {
                        uint4* to = (uint4*)states_at(layer, both_have);
                        if (STATE_BYTES == 2) {
                            to[0] = make_uint4(both(h[0], h[1]), both(h[2], h[3]), both(h[4], h[5]), both(h[6], h[7]));
                        } else {
                            ((float4*)to)[0] = make_float4(h[0], h[1], h[2], h[3]);
                            ((float4*)to)[1] = make_float4(h[4], h[5], h[6], h[7]);
                        }
                    }
                    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                    if (whose == side) result += sum;
                }
                if (inside(pair))
                    y[(first + pair / CHANNELS) * INNER + group * CHANNELS + pair % CHANNELS] =
                        rounded(result * s.gate[pair]);
            }
        }
        arrive();
        uint4 out_weight[OUTWARDS][2];
        if (leaves) fetch_outwards(out_weight, layer);
        wait();

        // Phase C.
        if (leaves) {
            const int g = lane / 4, t = lane % 4;
            uint4 rows_of_y[2][OUTWARDS][2];
            const bf16* from = y + (first + g) * INNER + warp * OUTWARDS * 32 + 8 * t;
#pragma unroll
            for (int k = 0; k < OUTWARDS; k++)
#pragma unroll
                for (int m = 0; m < 4; m++) rows_of_y[m / 2][k][m % 2] = fresh16(from + 8 * m * INNER + 32 * k);
            float c[2][2][4] = {};
#pragma unroll
            for (int k = 0; k < 2 * OUTWARDS; k++)
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int n = 0; n < 2; n++)
                        multiply(c[m][n], rows_of_y[m][k / 2][0], rows_of_y[m][k / 2][1], out_weight[k / 2][n], k % 2);
            float4* part = (float4*)s.parts + warp * 128 + lane;
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int n = 0; n < 2; n++)
                    part[(m * 2 + n) * 32] = make_float4(c[m][n][0], c[m][n][1], c[m][n][2], c[m][n][3]);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < OUT_EACH; i++) {
                int item = tid + i * THREADS, row = row_of(item);
                // Row 16 m + 8 lower + g and columns 8 n + 2 t, as mma leaves them.
                int m = row / 16, lower = row / 8 % 2, n = item / 4 % 2;
                const float* from = (const float*)s.parts + ((m * 2 + n) * 32 + row % 8 * 4 + item % 4) * 4 + 2 * lower;
                float2 residual = s.residual[item];
#pragma unroll
                for (int w = 0; w < WARPS; w++) {
                    float2 some = *(const float2*)(from + w * 512);
                    residual.x += some.x;
                    residual.y += some.y;
                }
                s.residual[item] = residual;
                float square = residual.x * residual.x + residual.y * residual.y;
#pragma unroll
                for (int other = 4; other > 0; other /= 2) square += __shfl_xor_sync(0xffffffffu, square, other);
                if (first + row < rows) {
                    *(unsigned*)(stream + (first + row) * WIDTH + column_of(item)) =
                        both(residual.x, residual.y);
                    if (item % 8 == 0) squares[(ROWS + first + row) * LEAVING + group] = square;
                }
            }
        }
#pragma unroll 1
        for (int i = blockIdx.x * THREADS + tid; i < ROWS * SELECTED / 2; i += BLOCKS * THREADS)
            ((uint4*)sums)[i] = make_uint4(0, 0, 0, 0);  // for the next layer but one
        if (layer + 1 < layers) {
            arrive();
            fetch_inwards(layer + 1);
            wait();
        }
    }
    // The last to be done makes the counter ready for the next step: nobody waits any more.
    if (tid == 0 && atomicAdd(counter, 1u) == target + BLOCKS - 1) *counter = 0;
}
