// All layers of one decoding step of Mamba as one kernel whose blocks wait for each other. See mamba_step.py, which
// says how the weights are arranged, and for how many rows and with which blocks this is compiled.
//
// Every multiprocessor has one block. A block has BLOCK_ROWS of the rows (`rows_of` says which) and CHANNELS of the
// channels (`group`): their x and z, convolution, step size and states; in the last phase COLUMNS of the stream's. A
// layer has three phases, each ended by a barrier of all blocks:
//   A  x and z from the stream, the convolution, and what these channels add to the selection (low-rank step, B, C);
//   B  step sizes, states, y;
//   C  the stream's columns from all of y, and the rows' sums of squares.
// Between its arrival at a barrier and the wait for the others a block asks for the weights and states of its next
// phase, into registers: after the barrier only what other blocks have written remains to be read. With more than 24
// channels phase A's weights are too many for that (PARKED): they have a place in shared memory, and are on their way
// to it during phases B and C of the layer before.
//
// Products are mma's of 16 x 8 x 16. The order of the terms of a sum is free: of every 32, the four lanes of a row have
// 8 each, which serve two mma's. What stands on the left, two rows for a lane, is in memory as the lanes take it
// (`tiled`): the weights in phase A, where the stream is on the right, and elsewhere what is multiplied by them; so no
// number must be moved between registers. The warps divide the terms between them, and in phase A also the rows, if
// there are 64.
//
// Two runs give the same bits. What all blocks add to the selection is added up in memory in any order, but as integers
// of 64 bits, in units of 2^-32; a block's part that is 2^17 or more, or not a number, makes the sum not a number. Of
// the rows' sums of squares every block leaves its part in a place of its own.
//
// Who compiles this defines WIDTH (of the stream), INNER (channels), RANK (of the step size), EPS (of the norm),
// STATE_BYTES (2: bfloat16, 4: float), BLOCK_ROWS, CHANNELS, COLUMNS, WARPS and SHARED (bytes of shared memory). Needs
// compute capability 9.0, and all blocks at once on the device.

#ifndef EMULATED
typedef unsigned short bf16;
#define DEVICE __device__ __forceinline__
#define SHARED_MEMORY(type, name) \
    extern __shared__ uint4 dynamic[]; \
    type& name = *(type*)dynamic
DEVICE float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float log2_(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float inverse(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float inverse_root(float x) { return rsqrtf(x); }
DEVICE bf16 rounded(float x) { bf16 y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }

// What nobody writes while the kernel runs. Not as such (`nc`), or the compiler would ask for it after a barrier.
DEVICE uint4 fixed(const void* from) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// What only this thread writes, or zero.
DEVICE uint4 own16(const void* from, bool some) {
    uint4 v;
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n"
                 "mov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
                 "@p ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
                 : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w) : "l"(from), "r"((unsigned)some));
    return v;
}

// What other blocks have written before a barrier: from the L2 cache, as the first is not kept up to date.
DEVICE uint4 fresh16(const void* from) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
}

DEVICE void add_to(unsigned long long* to, unsigned long long value) {
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" :: "l"(to), "l"(value) : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8].
DEVICE void mma(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

DEVICE void copy_later(uint4* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::
                 "r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global) : "memory");
}
DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// One copy of a whole piece, by one thread, which a barrier in shared memory counts; `layer` numbers its uses. What all
// threads have done with the place before must be followed by `leave_place` and __syncthreads.
DEVICE unsigned shared_place(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
DEVICE void prepare(unsigned long long* landed) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared_place(landed)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
DEVICE void leave_place() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void expect(unsigned long long* landed, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared_place(landed)), "r"(bytes) : "memory");
}
DEVICE void copy_piece(void* shared, const void* global, unsigned bytes, unsigned long long* landed) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared_place(shared)), "l"(global), "r"(bytes), "r"(shared_place(landed)) : "memory");
}
DEVICE void wait_for_pieces(unsigned long long* landed, int layer) {
    unsigned done = 0;
    while (!done)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(shared_place(landed)), "r"(layer % 2) : "memory");
}

DEVICE void to_l2(const void* from, unsigned bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(from), "r"(bytes) : "memory");
}

// What follows from it is computed again, not kept in registers from before.
DEVICE void forget(int& x) { asm volatile("" : "+r"(x)); }

DEVICE void signal(unsigned* counter) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" :: "l"(counter) : "memory");
}
DEVICE unsigned signals(const unsigned* counter) {
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(counter) : "memory");
    return v;
}
#endif

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

DEVICE float wide(bf16 x) { return __uint_as_float((unsigned)x << 16); }
DEVICE float low(unsigned two) { return __uint_as_float(two << 16); }
DEVICE float high(unsigned two) { return __uint_as_float(two & 0xffff0000u); }
DEVICE unsigned both(float x, float y) { return rounded(x) | (unsigned)rounded(y) << 16; }
DEVICE float sigmoid(float x) { return inverse(1.0f + exp2_(-LOG2E * x)); }

DEVICE float softplus(float x) {
    float e = exp2_(LOG2E * x);
    float few = e * (1.0f - e * (0.5f - e * (0.33333333f - e * (0.25f - e * 0.2f))));  // log(1 + e) of a small e
    return x > 20.0f ? x : e < 0.0625f ? few : LN2 * log2_(1.0f + e);
}

// c [16, 8] += a [16, 16] b [16, 8]: `left`, what a lane has of a; `right`, 8 terms, for two products, of column
// lane / 4 of b.
DEVICE void multiply(float* c, const uint4& left, const uint4& right, int second) {
    if (second)
        mma(c, left.x, left.y, left.z, left.w, right.z, right.w);
    else
        mma(c, left.x, left.y, left.z, left.w, right.x, right.y);
}

// Where a number is of a matrix that stands on the left, with so many times 32 terms: [rows / 16, chunks, 2, 32, 8].
DEVICE unsigned tiled_row(unsigned row, int chunks) {
    return row / 16 * chunks * 512 + row % 8 * 32 + row / 8 % 2 * 2;
}
DEVICE unsigned tiled_term(unsigned term) {
    return term / 32 * 512 + term / 4 % 2 * 256 + term / 8 % 4 * 8 + term / 2 % 2 * 4 + term % 2;
}

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
constexpr int THREADS = 32 * WARPS, GROUPS = INNER / CHANNELS, LEAVING = WIDTH / COLUMNS;
constexpr int SELECTED = RANK + 2 * SIZE;              // width of the selection
constexpr int PAIRS = BLOCK_ROWS * CHANNELS;           // of a row and a channel
constexpr int OWN = PAIRS / THREADS;                   // pairs that a thread has the x and z of
constexpr int LINES = OWN / 3, LINE = 96 / CHANNELS;   // those of one channel, every LINE rows
constexpr int HEIGHT = BLOCK_ROWS / 16;                // tiles of 16 rows
constexpr int TILES = CHANNELS / 8, OUT_TILES = COLUMNS / 8;                   // of 8 channels, of 8 columns
constexpr int SPLIT = BLOCK_ROWS / 32, ADDENDS = WARPS / SPLIT, PARTS = WARPS / 2;
constexpr bool PARKED = CHANNELS > 24;                 // whether phase A's weights are in shared memory
constexpr int PITCH = CHANNELS + 4;                    // of a row, away from bank conflicts
constexpr int INWARDS = WIDTH / 32 / ADDENDS, OUTWARDS = INNER / 32 / WARPS;   // times 32 terms, for a warp
constexpr int OUT_HELD = 4 / HEIGHT * OUTWARDS > OUTWARDS ? OUTWARDS : (OUTWARDS + 1) / 2;  // of them at a time
constexpr int SELECTS = SELECTED / 8, CHUNKS = (CHANNELS + 31) / 32;
constexpr int SELECT_WARPS = WARPS / HEIGHT, SELECT_EACH = (SELECTS + SELECT_WARPS - 1) / SELECT_WARPS;
constexpr int RANKS = (RANK + 31) / 32, STEP_EACH = (HEIGHT * TILES + WARPS - 1) / WARPS;
constexpr int SMALL = 7 * CHANNELS + CHANNELS * SIZE;  // taps, bias, bias of the step, skip, rates
constexpr int SIDE = THREADS / BLOCK_ROWS;             // threads of a row where they have one
constexpr int SQUARES_EACH = (LEAVING / 4 + SIDE - 1) / SIDE, TAKEN = (SELECTED / 2 + SIDE - 1) / SIDE;
constexpr int SPREAD = OUT_TILES % 2 ? 1 : 2, OUT_PAIRS = OUT_TILES / SPREAD;  // a thread's columns, by twos
constexpr int OUT_ITEMS = BLOCK_ROWS * 4 * SPREAD, OUT_EACH = (OUT_ITEMS + THREADS - 1) / THREADS;
constexpr int STATE_LOADS = STATE_BYTES / 2;           // of 16 bytes, for 8 states
constexpr int HELD = OWN < 12 / STATE_LOADS ? OWN : 12 / STATE_LOADS;          // pairs whose states are in registers
constexpr int IN_PIECE = 2 * TILES * 512;              // bytes, for 32 terms
constexpr int IN_BYTES = WIDTH / 32 * IN_PIECE, OUT_BYTES = INNER / 32 * OUT_TILES * 512;

// body(i, k) for i < COUNT, the k-th of this thread; without a loop whose length only some thread knows.
template <int COUNT, class Body> DEVICE void each(int tid, Body body) {
#pragma unroll
    for (int k = 0; k < (COUNT + THREADS - 1) / THREADS; k++) {
        int i = tid + k * THREADS;
        if ((k + 1) * THREADS <= COUNT || i < COUNT) body(i, k);
    }
}

static_assert(BLOCK_ROWS == 32 || BLOCK_ROWS == 64, "");
static_assert(INNER % CHANNELS == 0 && WIDTH % (32 * ADDENDS) == 0 && INNER % (32 * WARPS) == 0, "");
static_assert(WARPS % HEIGHT == 0 && BLOCK_ROWS % WARPS == 0 && CHANNELS % 8 == 0 && COLUMNS % 8 == 0, "");
static_assert(WIDTH % COLUMNS == 0 && RANK % 8 == 0 && LEAVING <= GROUPS && GROUPS <= 64 && LEAVING % 4 == 0, "");
static_assert(PAIRS % (3 * THREADS) == 0 && 96 % CHANNELS == 0 && OUT_ITEMS % 32 == 0, "");
static_assert(STATE_BYTES == 2 || STATE_BYTES == 4, "");

struct __align__(16) Shared {
    union {
        uint4 inwards[PARKED ? IN_BYTES / 16 : 1];     // the weights, and after their use
        float sums[PARTS][2][BLOCK_ROWS][PITCH];       // x and z of one or two warps each
    };
    union {
        struct {                                       // in A
            uint4 select[CHUNKS * SELECTS * 32];       // weights
            bf16 before[BLOCK_ROWS][3][CHANNELS];      // inputs of the convolution, the oldest first
                bf16 u[BLOCK_ROWS * CHUNKS * 32];          // tiled
        };
        struct {                                       // in B
            bf16 low_rank[2][BLOCK_ROWS * RANKS * 32]; // tiled; what its rounding has left is the second
            float ends[BLOCK_ROWS][2 * SIZE];          // B and C
            float step[PAIRS];
        };
        float4 products[WARPS][HEIGHT][OUT_TILES][32]; // mma's results, in C
    };
    float small[SMALL];
    float gate[PAIRS], squares[BLOCK_ROWS];
    float2 residual[OUT_ITEMS][OUT_PAIRS];
    unsigned long long landed;
    int oldest;                                        // of the places of the convolution's inputs
};
static_assert(sizeof(Shared) <= SHARED, "");

// inwards [layers, GROUPS, WIDTH / 32, TILES, 2, 32], tiled but for the order of the first two; select [layers, GROUPS,
// CHUNKS, SELECTS, 32], steps [layers, GROUPS, TILES, RANKS, 32] and outwards [layers, LEAVING, INNER / 32, OUT_TILES,
// 32]; all with 8 weights a lane. small [layers, GROUPS, SMALL]. stream [all, WIDTH], hidden [rows, WIDTH] and squares
// [2, all, LEAVING], where all = rows as whole blocks have them: a row's sum of squares in LEAVING parts, before the
// first layer, given, and after the last; selection [2, all, SELECTED], zero before and after; y [all, INNER], tiled;
// recent [layers, rows, 3, INNER]; state [layers, rows, INNER, SIZE]; clock [1]; counter [1]: arrivals at barriers,
// zero before and after. GROUPS blocks for every BLOCK_ROWS rows.
extern "C" __global__ __launch_bounds__(THREADS, 1) void mamba_step(
        const uint4* __restrict__ inwards, const uint4* __restrict__ select, const uint4* __restrict__ steps,
        const uint4* __restrict__ outwards, const float* __restrict__ small, bf16* stream, const float* hidden,
        float* squares, unsigned long long* selection, bf16* y, bf16* recent, char* state, const int* clock,
        unsigned* counter, long long layers, long long row_count) {
    SHARED_MEMORY(Shared, s);
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int rows_of = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS, first = rows_of * BLOCK_ROWS;
    const int rows = (int)row_count, sharers = gridDim.x / GROUPS, all = sharers * BLOCK_ROWS;
    const bool leaves = group < LEAVING;
    unsigned target = 0;

    // Pairs, row by row, 32 a warp. A thread owns OWN of them, LINES of each of three channels; two neighbours share
    // the states of what both own, 8 of each pair: `whose` pair, the even one's or the odd one's.
    auto first_row = [&](int i, int whose) {
        return warp * (OWN * 32 / CHANNELS) + (int)((32 * (i / LINES) + 16 * whose + (unsigned)lane / 2) / CHANNELS);
    };
    auto row_of_pair = [&](int i, int whose) { return first_row(i, whose) + i % LINES * LINE; };
    auto channel_of_pair = [&](int i, int whose) {
        return (int)((32 * (i / LINES) + 16 * whose + (unsigned)lane / 2) % CHANNELS);
    };
    auto recent_at = [&](int layer, int row, int slot) {
        return recent + (((long long)layer * rows + first + row) * 3 + slot) * INNER + group * CHANNELS;
    };
    auto states_of = [&](int layer, int row) {
        return state + (((long long)layer * rows + first + row) * INNER + group * CHANNELS) * SIZE * STATE_BYTES;
    };
    auto states_at = [&](int layer, int i, int whose) {
        return states_of(layer, first_row(i, whose))
               + (channel_of_pair(i, whose) * SIZE + 8 * (lane % 2)) * STATE_BYTES
               + i % LINES * (LINE * INNER * SIZE * STATE_BYTES);
    };

    auto arrive = [&]() {
        __syncthreads();
        if (tid == 0) signal(counter);
        target += gridDim.x;
    };
    auto wait = [&]() {
        if (tid == 0)
            while (signals(counter) < target) {}
        __syncthreads();
        forget(tid);
        forget(warp);
        forget(lane);
    };

    // To the L2 cache, from memory, all that a layer will need, but for weights that go to shared memory. Blocks with
    // the same channels share the weights. A warp asks for one lane after the other, so that all warps take part.
    auto my_piece = [&](const char* from, int bytes) {
#pragma unroll 1
        for (int quarter = rows_of; quarter < 4; quarter += sharers) to_l2(from + quarter * (bytes / 4), bytes / 4);
    };
    auto ahead = [&](int layer) {
        long long part = (long long)layer * GROUPS + group;
#pragma unroll 1
        for (int job = warp; job < 4; job += WARPS) {
            if (lane > 0) continue;
            if (job == 0 && rows_of == 0) to_l2(small + part * SMALL, SMALL * 4);
            if (job == 1 && !PARKED) my_piece((const char*)inwards + part * IN_BYTES, IN_BYTES);
            if (job == 2 && leaves)
                my_piece((const char*)outwards + ((long long)layer * LEAVING + group) * OUT_BYTES, OUT_BYTES);
            if (job == 3 && rows_of == 0) to_l2(select + part * CHUNKS * SELECTS * 32, CHUNKS * SELECTS * 512);
            if (job == 3 && rows_of == sharers - 1) to_l2(steps + part * TILES * RANKS * 32, TILES * RANKS * 512);
        }
        int place = tid;
        forget(place);
        int row = place / 32 * (BLOCK_ROWS / WARPS) + place % 32;
        if (place % 32 < BLOCK_ROWS / WARPS && first + row < rows)
            to_l2(states_of(layer, row), CHANNELS * SIZE * STATE_BYTES);
    };

    // Of phase A.
    uint4 in_weight[PARKED ? 1 : INWARDS][2 * TILES];
    auto park = [&](int layer) {  // by one thread
        const char* from = (const char*)inwards + ((long long)layer * GROUPS + group) * IN_BYTES;
        expect(&s.landed, IN_BYTES);
#pragma unroll 1
        for (int k = 0; k < WIDTH / 32; k++)
            copy_piece((char*)s.inwards + k * IN_PIECE, from + k * IN_PIECE, IN_PIECE, &s.landed);
    };
    auto fetch_inwards = [&](int layer) {  // without a condition, or the registers would also have to keep what was
        long long part = (long long)layer * GROUPS + group;
        const uint4* from = inwards + (part * (WIDTH / 32) + warp / SPLIT * INWARDS) * (2 * TILES * 32) + lane;
        if (!PARKED)
#pragma unroll
            for (int k = 0; k < INWARDS; k++)
#pragma unroll
                for (int n = 0; n < 2 * TILES; n++)
                    in_weight[PARKED ? 0 : k][n] = fixed(from + (k * 2 * TILES + n) * 32);
        each<SMALL / 4>(tid, [&](int i, int) { copy_later((uint4*)s.small + i, small + part * SMALL + 4 * i); });
        each<CHUNKS * SELECTS * 32>(tid, [&](int i, int) {
            copy_later(s.select + i, select + part * CHUNKS * SELECTS * 32 + i);
        });
        each<BLOCK_ROWS * 3 * TILES>(tid, [&](int i, int) {
            int row = i / (3 * TILES), tap = i % (3 * TILES) / TILES, eighth = i % TILES * 8;
            if (first + row < rows)
                copy_later((uint4*)(s.before[row][tap] + eighth),
                           recent_at(layer, row, (s.oldest + tap) % 3) + eighth);
        });
    };

    // Of phase B.
    auto fetch_state = [&](uint4 (&states)[2 * HELD][STATE_LOADS], int layer, int j) {
#pragma unroll
        for (int i = 0; i < STATE_LOADS; i++)
            states[j % (2 * HELD)][i] = own16(states_at(layer, j / 2, j % 2) + 16 * i,
                                               first + row_of_pair(j / 2, j % 2) < rows);
    };
    auto fetch_states = [&](uint4 (&states)[2 * HELD][STATE_LOADS], uint4 (&step_weight)[STEP_EACH][RANKS], int layer) {
        long long part = (long long)layer * GROUPS + group;
#pragma unroll
        for (int i = 0; i < STEP_EACH; i++) {
            int tile = min(warp + i * WARPS, HEIGHT * TILES - 1);
#pragma unroll
            for (int k = 0; k < RANKS; k++)
                step_weight[i][k] = fixed(steps + ((part * TILES + tile / HEIGHT) * RANKS + k) * 32 + lane);
        }
#pragma unroll
        for (int j = 0; j < 2 * HELD; j++) fetch_state(states, layer, j);
    };

    // Of phase C.
    auto fetch_outwards = [&](uint4 (&out_weight)[OUTWARDS][OUT_TILES], int layer) {
        const uint4* from = outwards + lane + (((long long)layer * LEAVING + group) * (INNER / 32) + warp * OUTWARDS)
                                              * (OUT_TILES * 32);
#pragma unroll
        for (int k = 0; k < OUTWARDS; k++)
#pragma unroll
            for (int n = 0; n < OUT_TILES; n++) out_weight[k][n] = fixed(from + (k * OUT_TILES + n) * 32);
    };

    // Neighbouring columns of the residual stream stay with a thread, in float32, two of OUT_PAIRS tiles; the threads
    // of a row are neighbours.
    auto row_of = [&](int item) { return item / (4 * SPREAD); };
    auto tile_of = [&](int item, int q) { return item / 4 % SPREAD + q * SPREAD; };
    auto column_of = [&](int item, int q) { return group * COLUMNS + tile_of(item, q) * 8 + item % 4 * 2; };
    each<OUT_ITEMS>(tid, [&](int item, int) {
        int row = first + row_of(item);
#pragma unroll
        for (int q = 0; q < OUT_PAIRS; q++)
            s.residual[item][q] = leaves && row < rows ? *(const float2*)(hidden + row * WIDTH + column_of(item, q))
                                                       : make_float2(0.0f, 0.0f);
    });

    ahead(0);
    if (tid == 0) {
        s.oldest = *clock % 3;
        if (PARKED) {
            prepare(&s.landed);
            park(0);
        }
    }
    __syncthreads();
    fetch_inwards(0);
#pragma unroll 1
    for (int layer = 0; layer < layers; layer++) {
        float u[OWN];
        unsigned long long* sums = selection + layer % 2 * (all * SELECTED);

        // Phase A.
        {
            const int g = lane / 4, t = lane % 4, side = lane % 2, top = warp % SPLIT * 32;
            uint4 rows_of_stream[4][INWARDS];
            const bf16* from = stream + (first + top + g) * WIDTH + warp / SPLIT * INWARDS * 32 + 8 * t;
#pragma unroll
            for (int k = 0; k < INWARDS; k++)
#pragma unroll
                for (int m = 0; m < 4; m++) rows_of_stream[m][k] = fresh16(from + 8 * m * WIDTH + 32 * k);
            // Sums of squares: SIDE neighbours have a row.
            const float* squares_from = squares + (min(layer, 1) * all + first + tid / SIDE) * LEAVING;
            uint4 some_squares[SQUARES_EACH];
#pragma unroll
            for (int i = 0; i < SQUARES_EACH; i++) {
                int place = tid % SIDE + i * SIDE;
                some_squares[i] = place < LEAVING / 4 ? fresh16(squares_from + 4 * place) : make_uint4(0, 0, 0, 0);
            }
            float c[TILES][4][4] = {};
            if (PARKED) {
                wait_for_pieces(&s.landed, layer);
                const uint4* weights = s.inwards + warp / SPLIT * INWARDS * (2 * TILES * 32) + lane;
#pragma unroll
                for (int k = 0; k < 2 * INWARDS; k++)
#pragma unroll
                    for (int n = 0; n < TILES; n++) {
                        uint4 weight = weights[(k / 2 * 2 * TILES + 2 * n + k % 2) * 32];
#pragma unroll
                        for (int m = 0; m < 4; m++) multiply(c[n][m], weight, rows_of_stream[m][k / 2], k % 2);
                    }
                __syncthreads();  // the sums have their place
            } else {
#pragma unroll
                for (int k = 0; k < 2 * INWARDS; k++)
#pragma unroll
                    for (int n = 0; n < TILES; n++)
#pragma unroll
                        for (int m = 0; m < 4; m++)
                            multiply(c[n][m], in_weight[PARKED ? 0 : k / 2][2 * n + k % 2], rows_of_stream[m][k / 2],
                                     k % 2);
            }
            float square = 0.0f;
#pragma unroll
            for (int i = 0; i < SQUARES_EACH; i++)
                square += (__uint_as_float(some_squares[i].x) + __uint_as_float(some_squares[i].y))
                          + (__uint_as_float(some_squares[i].z) + __uint_as_float(some_squares[i].w));
#pragma unroll
            for (int other = SIDE / 2; other > 0; other /= 2) square += __shfl_xor_sync(0xffffffffu, square, other);
            if (tid % SIDE == 0) s.squares[tid / SIDE] = square;
            auto place = [&](int n, int m, int i) -> float& {
                int tile = 2 * n + i / 2;  // of 8 channels
                return s.sums[warp / SPLIT % PARTS][tile / TILES][top + 8 * m + 2 * t + i % 2][tile % TILES * 8 + g];
            };
            if (ADDENDS == PARTS || warp < PARTS)
#pragma unroll
                for (int i = 0; i < 16 * TILES; i++) place(i / 16, i / 4 % 4, i % 4) = c[i / 16][i / 4 % 4][i % 4];
            if (ADDENDS > PARTS) __syncthreads();
            if (ADDENDS > PARTS && warp >= PARTS)
#pragma unroll
                for (int i = 0; i < 16 * TILES; i++) place(i / 16, i / 4 % 4, i % 4) += c[i / 16][i / 4 % 4][i % 4];
            wait_for_copies();
            __syncthreads();
            float taps[5];
            unsigned place_of_u;
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                int row = row_of_pair(i, side), channel = channel_of_pair(i, side);
                if (i % LINES == 0) {
                    place_of_u = tiled_term(channel);
#pragma unroll
                    for (int j = 0; j < 5; j++) taps[j] = s.small[j * CHANNELS + channel];
                }
                float x = 0.0f, z = 0.0f;
#pragma unroll
                for (int w = 0; w < PARTS; w++) {
                    x += s.sums[w][0][row][channel];
                    z += s.sums[w][1][row][channel];
                }
                float by = inverse_root(s.squares[row] * (1.0f / WIDTH) + EPS);
                x *= by;
                z *= by;
                float value = taps[4];
#pragma unroll
                for (int tap = 0; tap < 3; tap++) value += taps[tap] * wide(s.before[row][tap][channel]);
                value += taps[3] * x;
                if (first + row < rows) recent_at(layer, row, s.oldest)[channel] = rounded(x);
                u[i] = value * sigmoid(value);
                s.gate[row * CHANNELS + channel] = z * sigmoid(z);
                s.u[tiled_row(row, CHUNKS) + place_of_u] = rounded(u[i]);
            }
            if (PARKED) leave_place();
            __syncthreads();
            if (PARKED && tid == 0 && layer + 1 < layers) park(layer + 1);
            // Of the last 32 terms, 24 or 16: the last of the four lanes of a row, or two, have none.
            const int m = warp % HEIGHT;
            uint4 left[CHUNKS][2];
#pragma unroll
            for (int k = 0; k < 2 * CHUNKS; k++)
                left[k / 2][k % 2] = 32 * (k / 2) + 8 * t < CHANNELS
                                     ? ((const uint4*)s.u)[(m * CHUNKS * 2 + k) * 32 + lane] : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < SELECT_EACH; i++) {
                int tile = warp / HEIGHT + i * SELECT_WARPS;
                if (tile >= SELECTS) continue;
                float d[4] = {};
#pragma unroll
                for (int k = 0; k < CHUNKS; k++) {
                    uint4 weight = s.select[(k * SELECTS + tile) * 32 + lane];
                    multiply(d, left[k][0], weight, 0);
                    multiply(d, left[k][1], weight, 1);
                }
                // The weights are in such an order that a lane has columns t and 4 + t: its neighbours' are beside.
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    int row = first + 16 * m + g + j / 2 * 8;
                    if (row < rows) add_to(sums + row * SELECTED + tile * 8 + j % 2 * 4 + t, part_of_sum(d[j]));
                }
            }
        }
        arrive();
        uint4 states[2 * HELD][STATE_LOADS], step_weight[STEP_EACH][RANKS];
        fetch_states(states, step_weight, layer);
        if (layer + 1 < layers) ahead(layer + 1);
        wait();

        // Phase B.
        {
            const int g = lane / 4, t = lane % 4, side = lane % 2;
            // SIDE neighbours have a row, two columns at a time.
            uint4 taken[TAKEN];
            const unsigned row = (unsigned)tid / SIDE, column = (unsigned)tid % SIDE * 2;
#pragma unroll
            for (int k = 0; k < TAKEN; k++)
                if (TAKEN * SIDE * 2 == SELECTED || column + 2 * SIDE * k < SELECTED)
                    taken[k] = fresh16(sums + (first + row) * SELECTED + column + 2 * SIDE * k);
#pragma unroll
            for (int k = 0; k < TAKEN; k++) {
                const unsigned from = column + 2 * SIDE * k;
                if (TAKEN * SIDE * 2 > SELECTED && from >= SELECTED) continue;
                float x = whole_sum(taken[k].x, taken[k].y), y = whole_sum(taken[k].z, taken[k].w);
                if (from >= RANK) {
                    *(float2*)&s.ends[row][from - RANK] = make_float2(x, y);
                } else {  // in two parts, so that a product with both is one in float32
                    unsigned whole = both(x, y), place = tiled_row(row, RANKS) + tiled_term(from);
                    *(unsigned*)&s.low_rank[0][place] = whole;
                    *(unsigned*)&s.low_rank[1][place] = both(x - low(whole), y - high(whole));
                }
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < STEP_EACH; i++) {
                int tile = warp + i * WARPS, m = tile % HEIGHT, n = tile / HEIGHT;
                if (tile >= HEIGHT * TILES) continue;
                float d[4] = {};
#pragma unroll
                for (int k = 0; k < 2 * RANKS; k++)
#pragma unroll
                    for (int rest = 0; rest < 2; rest++)
                        multiply(d, 32 * (k / 2) + 8 * t < RANK
                                    ? ((const uint4*)s.low_rank[rest])[(m * RANKS * 2 + k) * 32 + lane]
                                    : make_uint4(0, 0, 0, 0),
                                 step_weight[i][k / 2], k % 2);
                float* to = s.step + (16 * m + g) * CHANNELS + n * 8 + 2 * t;
                *(float2*)to = make_float2(d[0], d[1]);
                *(float2*)(to + 8 * CHANNELS) = make_float2(d[2], d[3]);
            }
            __syncthreads();
            float step_bias, skip, rates[2][8];
            unsigned place_of_y;
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                int row = row_of_pair(i, side), channel = channel_of_pair(i, side);
                if (i % LINES == 0) {
                    place_of_y = tiled_row(first, INNER / 32) + tiled_term(group * CHANNELS + channel);
                    step_bias = s.small[5 * CHANNELS + channel], skip = s.small[6 * CHANNELS + channel];
#pragma unroll
                    for (int q = 0; q < 4; q++)
                        *(float4*)&rates[q / 2][q % 2 * 4] =
                            *(const float4*)&s.small[7 * CHANNELS + channel_of_pair(i, q / 2) * SIZE + 8 * side
                                                     + q % 2 * 4];
                }
                float step = softplus(s.step[row * CHANNELS + channel] + step_bias), in = step * u[i];
                float other_step = __shfl_xor_sync(0xffffffffu, step, 1);
                float other_in = __shfl_xor_sync(0xffffffffu, in, 1);
                float result = skip * u[i];
#pragma unroll
                for (int whose = 0; whose < 2; whose++) {
                    int j = 2 * i + whose, line = row_of_pair(i, whose);
                    float step_ = whose == side ? step : other_step, in_ = whose == side ? in : other_in;
                    const float4* B = (const float4*)(s.ends[line] + 8 * side);
                    const float4* C = B + SIZE / 4;
                    const float* rate = rates[whose];
                    float h[8], sum = 0.0f, other_sum = 0.0f;  // of the even states, of the odd ones
                    if (STATE_BYTES == 2) {
                        uint4 eight = states[j % (2 * HELD)][0];
                        h[0] = low(eight.x), h[1] = high(eight.x), h[2] = low(eight.y), h[3] = high(eight.y);
                        h[4] = low(eight.z), h[5] = high(eight.z), h[6] = low(eight.w), h[7] = high(eight.w);
                    } else {
#pragma unroll
                        for (int q = 0; q < 2; q++) {
                            uint4 four = states[j % (2 * HELD)][q % STATE_LOADS];
                            h[4 * q] = __uint_as_float(four.x), h[4 * q + 1] = __uint_as_float(four.y);
                            h[4 * q + 2] = __uint_as_float(four.z), h[4 * q + 3] = __uint_as_float(four.w);
                        }
                    }
#pragma unroll
                    for (int q = 0; q < 2; q++) {
                        float4 b = B[q], c = C[q];
                        h[4 * q] = exp2_(step_ * rate[4 * q]) * h[4 * q] + in_ * b.x;
                        h[4 * q + 1] = exp2_(step_ * rate[4 * q + 1]) * h[4 * q + 1] + in_ * b.y;
                        h[4 * q + 2] = exp2_(step_ * rate[4 * q + 2]) * h[4 * q + 2] + in_ * b.z;
                        h[4 * q + 3] = exp2_(step_ * rate[4 * q + 3]) * h[4 * q + 3] + in_ * b.w;
                        sum += h[4 * q] * c.x, other_sum += h[4 * q + 1] * c.y;
                        sum += h[4 * q + 2] * c.z, other_sum += h[4 * q + 3] * c.w;
                    }
                    if (first + line < rows) {
                        uint4* to = (uint4*)states_at(layer, i, whose);
                        if (STATE_BYTES == 2) {
                            to[0] = make_uint4(both(h[0], h[1]), both(h[2], h[3]), both(h[4], h[5]), both(h[6], h[7]));
                        } else {
                            ((float4*)to)[0] = make_float4(h[0], h[1], h[2], h[3]);
                            ((float4*)to)[1] = make_float4(h[4], h[5], h[6], h[7]);
                        }
                    }
                    sum += other_sum;
                    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                    if (whose == side) result += sum;
                    if (i + HELD < OWN) fetch_state(states, layer, j + 2 * HELD);
                }
                if (first + row < rows)
                    y[tiled_row(row, INNER / 32) + place_of_y] = rounded(result * s.gate[row * CHANNELS + channel]);
            }
        }
        arrive();
        uint4 out_weight[OUTWARDS][OUT_TILES];
        if (leaves) fetch_outwards(out_weight, layer);
        wait();

        // Phase C.
        if (leaves) {
            uint4 rows_of_y[OUT_HELD][2 * HEIGHT];
            const uint4* from = (const uint4*)y + (first / 16 * (INNER / 32) + warp * OUTWARDS) * 64 + lane;
            auto fetch_y = [&](int k) {
#pragma unroll
                for (int m = 0; m < 2 * HEIGHT; m++)
                    rows_of_y[k % OUT_HELD][m] = fresh16(from + (m / 2 * (INNER / 32) + k) * 64 + m % 2 * 32);
            };
#pragma unroll
            for (int k = 0; k < OUT_HELD; k++) fetch_y(k);
            float c[HEIGHT][OUT_TILES][4] = {};
#pragma unroll
            for (int k = 0; k < OUTWARDS; k++) {
#pragma unroll
                for (int second = 0; second < 2; second++)
#pragma unroll
                    for (int m = 0; m < HEIGHT; m++)
#pragma unroll
                        for (int n = 0; n < OUT_TILES; n++)
                            multiply(c[m][n], rows_of_y[k % OUT_HELD][2 * m + second], out_weight[k][n], second);
                if (k + OUT_HELD < OUTWARDS) fetch_y(k + OUT_HELD);
            }
#pragma unroll
            for (int m = 0; m < HEIGHT; m++)
#pragma unroll
                for (int n = 0; n < OUT_TILES; n++)
                    s.products[warp][m][n][lane] = make_float4(c[m][n][0], c[m][n][1], c[m][n][2], c[m][n][3]);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < OUT_EACH; i++) {
                int item = tid + i * THREADS, row = row_of(item);
                if (OUT_ITEMS % THREADS && item >= OUT_ITEMS) continue;  // whole warps
                float square = 0.0f;
#pragma unroll
                for (int q = 0; q < OUT_PAIRS; q++) {
                    // Row 16 m + 8 lower + g and columns 8 n + 2 t, as mma leaves them.
                    const float4* from = &s.products[0][row / 16][tile_of(item, q)][row % 8 * 4 + item % 4];
                    float2 residual = s.residual[item][q];
#pragma unroll
                    for (int w = 0; w < WARPS; w++) {
                        float2 some = ((const float2*)(from + w * HEIGHT * OUT_TILES * 32))[row / 8 % 2];
                        residual.x += some.x;
                        residual.y += some.y;
                    }
                    s.residual[item][q] = residual;
                    square += residual.x * residual.x + residual.y * residual.y;
                    if (first + row < rows)
                        *(unsigned*)(stream + (first + row) * WIDTH + column_of(item, q)) =
                            both(residual.x, residual.y);
                }
#pragma unroll
                for (int other = 2 * SPREAD; other > 0; other /= 2)
                    square += __shfl_xor_sync(0xffffffffu, square, other);
                if (first + row < rows && item % (4 * SPREAD) == 0)
                    squares[(all + first + row) * LEAVING + group] = square;
            }
        }
        int now = layer;
        forget(now);
        uint4* used = (uint4*)(selection + now % 2 * (all * SELECTED));
#pragma unroll 1
        for (int i = blockIdx.x * THREADS + tid; i < all * SELECTED / 2; i += gridDim.x * THREADS)
            used[i] = make_uint4(0, 0, 0, 0);  // for the next layer but one
        if (layer + 1 < layers) {
            arrive();
            fetch_inwards(layer + 1);
            wait();
        }
    }
    // The last to be done makes the counter ready for the next step: nobody waits any more.
    if (tid == 0 && atomicAdd(counter, 1u) == target + gridDim.x - 1) *counter = 0;
}
