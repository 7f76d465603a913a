// One layer of a decoding step of Mamba, in three kernels that overlap. See mamba_layer.py, which says how the weights
// are arranged; device.cuh comes before this.
//
//   enter   x and z from the stream; the convolution and u; silu(z); what u adds to the selection (low-rank step, B, C)
//   update  step sizes, states, y
//   leave   the stream from y, and its sums of squares
//
// A kernel is launched as soon as all blocks of the one before have what they waited for (programmatic dependent
// launch), so that of two that overlap all before them have ended. Until the one before has ended it may read only what
// that one does not write: it asks for its weights, recent inputs and states, and waits.
//
// Products are wgmma's, of 64 rows and all or half of the columns a group of four warps. Both sides come to shared
// memory by bulk copies, through a ring of STAGES blocks of 64 terms, which one thread of a further warp fills. What is
// copied lies in memory as it has to in shared memory: in blocks of 64 terms, of whose rows of 128 bytes the 16 bytes c
// are at c ^ (row % 8).
//
// Two runs give the same bits: what several blocks have parts of is added up in one order. Of the selection every block
// of `enter` leaves its part, and every block of `update` adds up those of its rows.
//
// Who compiles this defines WIDTH (of the stream), INNER (channels), RANK (of the step size), EPS (of the norm),
// STATE_BYTES (2: bfloat16, 4: float); ROWS_X, ROWS_Z, ROWS_OUT (64 or 128: of a block of the products that give x, z
// and the stream), COLUMNS_IN, COLUMNS_OUT, STAGES_IN, STAGES_OUT; SPLIT (blocks, a cluster, that share the terms of
// the last); CHANNELS (of a block of `update`). Needs compute capability 9.0, and `product` for COLUMNS_IN (with 64
// rows half of them) and COLUMNS_OUT, and for SELECTED from registers.

#ifndef EMULATED
#define SHARED_MEMORY(name) extern __shared__ __align__(1024) char name[]

DEVICE unsigned place(const void* shared) { return (unsigned)__cvta_generic_to_shared(shared); }

// Barriers in shared memory that wait for so many arrivals, and for bytes.
DEVICE void barrier_init(unsigned long long* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(place(barrier)), "r"(arrivals) : "memory");
}
DEVICE void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void arrive_and_expect(unsigned long long* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(place(barrier)), "r"(bytes) : "memory");
}
DEVICE void arrive(unsigned long long* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(place(barrier)) : "memory");
}
DEVICE bool over(unsigned long long* barrier, unsigned parity) {
    unsigned yes;
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(yes) : "r"(place(barrier)), "r"(parity) : "memory");
    return yes;
}

DEVICE void copy_in(void* shared, const void* global, unsigned bytes, unsigned long long* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(place(shared)), "l"(global), "r"(bytes), "r"(place(barrier)) : "memory");
}
// The same, and back, of what is not read again before it has left the L2 cache: it leaves first.
DEVICE unsigned long long leaves_first() {
    unsigned long long policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
DEVICE void copy_in_once(void* shared, const void* global, unsigned bytes, unsigned long long* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
                 "[%3], %4;"
                 :: "r"(place(shared)), "l"(global), "r"(bytes), "r"(place(barrier)), "l"(leaves_first()) : "memory");
}
DEVICE void copy_out_once(void* global, const void* shared, unsigned bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;"
                 :: "l"(global), "r"(place(shared)), "r"(bytes), "l"(leaves_first()) : "memory");
}
// Shared memory may go only when all of it is read.
DEVICE void finish_copies_out() {
    asm volatile("cp.async.bulk.commit_group;\n cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Between what threads have written to shared memory and copies or products that read it.
DEVICE void written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

DEVICE void product_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void product_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int MOST> DEVICE void products_left() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(MOST) : "memory");
}
// Rows of 128 bytes, eight of them 1,024 bytes from the next eight, exchanged by their numbers.
DEVICE unsigned long long matrix(const char* shared) {
    return (unsigned long long)((place(shared) & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
template <int N> DEVICE void product(float (&d)[N / 2], const char* a, const char* b) {
    product<N>(d, matrix(a), matrix(b));
}
// With the left side in registers: what a lane has of an mma's.
template <int N> DEVICE void product(float (&d)[N / 2], const unsigned (&a)[4], const char* b) {
    product<N>(d, a[0], a[1], a[2], a[3], matrix(b));
}

// At once: ptxas makes four stores of a uint4 whose registers are far from each other. What nobody here reads again.
DEVICE void give16(void* to, const uint4& v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" :: "l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w));
}
DEVICE void give8(void* to, const uint2& v) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" :: "l"(to), "r"(v.x), "r"(v.y));
}

DEVICE void wait_for_kernel_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void let_next_kernel_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// To the shared memory of another block of the cluster, at the same place.
DEVICE void put_in(float4* mine, int block, const float4& v) {
    asm volatile("{.reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; st.shared::cluster.v4.f32 [there], "
                 "{%2, %3, %4, %5};}"
                 :: "r"(place(mine)), "r"(block), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}
#endif

constexpr int SIZE = 16;                             // states of a channel
constexpr int SELECTED = RANK + 2 * SIZE;            // width of the selection
constexpr int TERMS = 64, LINE = 128;                // of a block of a product, and bytes of its rows
constexpr int OWN = COLUMNS_OUT / SPLIT;             // columns that a block of `leave` completes
constexpr int PARTS = WIDTH / OWN;                   // of a row's sum of squares
constexpr int RANKS = (RANK + 15) / 16;
constexpr int ROWS = 8;                              // rows of a block of `update`

static_assert(WIDTH % TERMS == 0 && INNER % (TERMS * SPLIT) == 0 && INNER % COLUMNS_IN == 0, "");
static_assert(COLUMNS_IN % 16 == 0 && WIDTH % COLUMNS_OUT == 0 && INNER % CHANNELS == 0 && CHANNELS % 32 == 0, "");
static_assert(RANK % 8 == 0, "");
static_assert(STATE_BYTES == 2 || STATE_BYTES == 4, "");

DEVICE void wait(unsigned long long* barrier, unsigned parity) {
    while (!over(barrier, parity)) {}
}

// Where a matrix of blocks has an element, for `blocks` blocks a row.
DEVICE int tiled(int row, int column, int blocks) {
    return ((row / 64 * blocks + column / TERMS) * 64 + row % 64) * TERMS
           + (column % TERMS / 8 ^ row % 8) * 8 + column % 8;
}

// Where a matrix of INNER columns has an element that is in blocks of 8 rows and 32 columns: what a warp reads at once.
DEVICE long long packed(int row, int column) {
    return ((long long)(row / 8) * (INNER / 32) + column / 32) * 256 + row % 8 * 32 + column % 32;
}

// A block's product of TILE rows and COLUMNS columns, of BLOCKS blocks of terms, by GROUPS groups of four warps, which
// have 64 rows each.
template <int GROUPS, int TILE, int COLUMNS, int STAGES, int BLOCKS> struct Product {
    static constexpr int LEFT = TILE * LINE, RIGHT = COLUMNS * LINE, STAGE = LEFT + RIGHT;
    static constexpr int AHEAD = STAGES < BLOCKS ? STAGES : BLOCKS, CONSUMERS = 128 * GROUPS;
    static constexpr int ACROSS = GROUPS * 64 / TILE, EACH = COLUMNS / ACROSS;   // groups with the same rows; columns

    static_assert(TILE % 64 == 0 && ACROSS * TILE == GROUPS * 64 && EACH * ACROSS == COLUMNS && EACH % 8 == 0, "");

    // One thread.
    DEVICE static void init(unsigned long long* barriers) {
        for (int s = 0; s < STAGES; s++) {
            barrier_init(barriers + s, 1);
            barrier_init(barriers + STAGES + s, CONSUMERS / 32);
        }
    }

    // A block of terms of the right side.
    DEVICE static void copy_right(char* memory, unsigned long long* barriers, const bf16* weights, int k) {
        int s = k % STAGES;
        arrive_and_expect(barriers + s, STAGE);
        copy_in(memory + s * STAGE + LEFT, weights + k * (RIGHT / 2), RIGHT, barriers + s);
    }

    // One thread: the first of the right side, which nobody writes. weights: [BLOCKS][COLUMNS][64]
    DEVICE static void ask(char* memory, unsigned long long* barriers, const bf16* weights, bool first) {
        for (int k = 0; k < AHEAD; k++) copy_right(memory, barriers, weights, k);
        if (first && AHEAD < BLOCKS) to_l2(weights + AHEAD * (RIGHT / 2), (BLOCKS - AHEAD) * RIGHT);
    }

    // One thread: all of the left side, and the rest of the right. left: BLOCKS of the `terms` blocks of 64 rows, and
    // of the 64 after them
    DEVICE static void fill(char* memory, unsigned long long* barriers, const bf16* weights, const bf16* left,
                            int terms) {
#pragma unroll 1
        for (int k = 0; k < BLOCKS; k++) {
            int s = k % STAGES;
            if (k >= STAGES) {
                wait(barriers + STAGES + s, (k / STAGES - 1) & 1);
                copy_right(memory, barriers, weights, k);
            }
            for (int i = 0; i < TILE / 64; i++)
                copy_in(memory + s * STAGE + i * (64 * LINE), left + (i * terms + k) * (64 * TERMS), 64 * LINE,
                        barriers + s);
        }
    }

    // Four warps: 64 rows, EACH columns.
    DEVICE static void multiply(float (&d)[EACH / 2], char* memory, unsigned long long* barriers) {
        const int group = threadIdx.x / 128, left_at = group / ACROSS * (64 * LINE);
        const int right_at = LEFT + group % ACROSS * (EACH * LINE);
#pragma unroll
        for (int i = 0; i < EACH / 2; i++) d[i] = 0.0f;
#pragma unroll 1
        for (int k = 0; k < BLOCKS; k++) {
            int s = k % STAGES;
            const char *left = memory + s * STAGE + left_at, *right = memory + s * STAGE + right_at;
            wait(barriers + s, k / STAGES & 1);
            product_begin();
#pragma unroll
            for (int j = 0; j < TERMS / 16; j++) product<EACH>(d, left + 32 * j, right + 32 * j);
            product_end();
            if (k > 0) {
                products_left<1>();
                if (threadIdx.x % 32 == 0) arrive(barriers + STAGES + (k - 1) % STAGES);
            }
        }
        products_left<0>();
        if (threadIdx.x % 32 == 0) arrive(barriers + STAGES + (BLOCKS - 1) % STAGES);
    }

    // One thread: nobody reads these first bytes of the ring any more.
    DEVICE static void emptied(unsigned long long* barriers, int bytes) {
        for (int s = 0; s < STAGES && s < BLOCKS && s * STAGE < bytes; s++)
            wait(barriers + STAGES + s, (BLOCKS - 1 - s) / STAGES & 1);
    }
};

// small [layers][23 INNER]: taps [4][INNER], bias of the convolution, bias of the step, skip, rates [INNER][16].
constexpr int SMALL = (7 + SIZE) * INNER;

// Neighbours in memory, 8 or 4: floats, or bfloat16 in pairs.
DEVICE void take(unsigned (&two)[4], const bf16* from) {
    uint4 v = fresh16(from);
    two[0] = v.x, two[1] = v.y, two[2] = v.z, two[3] = v.w;
}
DEVICE void take(unsigned (&two)[2], const bf16* from) {
    uint2 v = fresh8(from);
    two[0] = v.x, two[1] = v.y;
}
DEVICE void take_here(unsigned (&two)[4], const bf16* shared) {
    uint4 v = *(const uint4*)shared;
    two[0] = v.x, two[1] = v.y, two[2] = v.z, two[3] = v.w;
}
DEVICE void take_here(unsigned (&two)[2], const bf16* shared) {
    uint2 v = *(const uint2*)shared;
    two[0] = v.x, two[1] = v.y;
}
DEVICE void take_fresh(float (&v)[4], const float* from) {
    uint4 four = fresh16(from);
    v[0] = __uint_as_float(four.x), v[1] = __uint_as_float(four.y);
    v[2] = __uint_as_float(four.z), v[3] = __uint_as_float(four.w);
}
DEVICE void take_fresh(float (&v)[1], const float* from) { v[0] = fresh(from); }
DEVICE void give(bf16* to, const unsigned (&two)[4]) { give16(to, make_uint4(two[0], two[1], two[2], two[3])); }
DEVICE void give(bf16* to, const unsigned (&two)[2]) { give8(to, make_uint2(two[0], two[1])); }
template <int N> DEVICE void take(float (&v)[N], const float* from) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        float4 four = *(const float4*)(from + i);
        v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
}

typedef Product<2, ROWS_X, COLUMNS_IN, STAGES_IN, WIDTH / TERMS> InX;
typedef Product<2, ROWS_Z, COLUMNS_IN, STAGES_IN, WIDTH / TERMS> InZ;
constexpr int U_BLOCKS = (COLUMNS_IN + TERMS - 1) / TERMS, SELECT_BYTES = U_BLOCKS * SELECTED * LINE;
constexpr int IN_THREADS = InX::CONSUMERS + 32;
constexpr int PARTIALS = INNER / COLUMNS_IN;
constexpr int OCTETS = SELECTED / 8, FIRST_OCTETS = (OCTETS + 1) / 2;           // of the first of two groups of warps

// x's blocks of 128 rows have their recent inputs where the ring was, 32 channels after the others.
constexpr bool IN_RING = ROWS_X == 128;
constexpr int GROUPS_OF_32 = COLUMNS_IN / 32, SLOT_BYTES = ROWS_X * 64, GROUP_BYTES = 3 * SLOT_BYTES;

struct EnterShared {
    union {
        struct {
            char x_ring[STAGES_IN * InX::STAGE];     // then what a group of warps has for the other, or recent inputs
            char select[SELECT_BYTES];
            float small[5 * COLUMNS_IN];
        };
        char ring[STAGES_IN * InZ::STAGE];
    };
    unsigned long long barriers[2 * STAGES_IN + 1 + GROUPS_OF_32];
};
static_assert(!IN_RING || (GROUPS_OF_32 * GROUP_BYTES <= STAGES_IN * InX::STAGE && InX::EACH % 32 == 0), "");
static_assert(COLUMNS_IN % 16 == 0 && InX::STAGE % 1024 == 0 && InZ::STAGE % 1024 == 0, "");
static_assert(InX::ACROSS == 1 || OCTETS * 128 * 16 <= STAGES_IN * InX::STAGE, "");

// What `enter` is given, of a layer and of a launch's rows.
struct Entering {
    const bf16 *weights, *select;
    const float* small;
    const bf16* stream;
    const float* squares;
    bf16* recent;                                    // [3], so far from each other:
    long long slot;
    const int* clock;
    bf16 *u, *gate;
    float* partials;                                 // [PARTIALS], so many rows from each other:
    long long all;
    int rows;
};

// A block of x's columns or of z's.
template <class In, bool X> DEVICE void enter_block(EnterShared& s, const Entering& e, int tile, int row_tile) {
    // A thread has so many columns next to each other, of two rows by turns: items. Of so many it has the recent inputs
    // at a time, as registers allow, or it has them from where the ring was.
    constexpr int VECTOR = In::EACH % 32 == 0 ? 8 : 4, ITEMS = In::EACH / (2 * VECTOR);
    constexpr bool LATE = X && IN_RING;
    constexpr int EARLY = LATE ? 1 : ITEMS * VECTOR > 40 ? 5 : ITEMS;
    static_assert(In::EACH % (4 * VECTOR) == 0, "");
    const int tid = threadIdx.x, rows = e.rows, first = row_tile * (In::LEFT / LINE), column = tile * COLUMNS_IN;
    const bool consumer = tid < In::CONSUMERS;
    unsigned long long *select_here = s.barriers + 2 * STAGES_IN, *recent_here = select_here + 1;
    const bf16* weights = e.weights + (tile + (X ? 0 : PARTIALS)) * (WIDTH * COLUMNS_IN);
    if (tid == In::CONSUMERS) {
        In::init(s.barriers);
        for (int i = 0; i < 1 + GROUPS_OF_32; i++) barrier_init(select_here + i, 1);
        barriers_ready();
    }
    __syncthreads();                                 // here, so that who fills the ring waits for no loads of others
    if (tid == In::CONSUMERS) {
        In::ask(s.ring, s.barriers, weights, row_tile == 0);
        if (X) {
            arrive_and_expect(select_here, SELECT_BYTES + sizeof(s.small));
            copy_in(s.select, e.select + tile * (SELECT_BYTES / 2), SELECT_BYTES, select_here);
            for (int i = 0; i < 5; i++)
                copy_in(s.small + i * COLUMNS_IN, e.small + i * INNER + column, COLUMNS_IN * 4, select_here);
        }
    }
    // A thread has columns of a row and of the 8th after it.
    const int lane = tid % 32, g = lane / 4, t = lane % 4, group = tid / 128;
    const int own_row = first + group / In::ACROSS * 64 + tid / 32 % 4 * 16 + g;
    const int own_column = group % In::ACROSS * In::EACH + t * VECTOR;
    auto row_of = [&](int item) { return own_row + item % 2 * 8; };
    auto column_of = [&](int item) { return own_column + item / 2 * (4 * VECTOR); };
    auto recent_of = [&](int group, int slot) { return e.recent + slot * e.slot + group * (e.slot / (INNER / 32)); };
    auto recent_at = [&](int item, int slot) {
        const int channel = column + column_of(item);
        return recent_of(channel / 32, slot) + row_of(item) * 32 + channel % 32;
    };
    const int oldest = *e.clock % 3;
    unsigned before[EARLY][3][VECTOR / 2];
    auto ask_for_recent = [&](int item) {
#pragma unroll
        for (int tap = 0; tap < 3; tap++) {
            auto& pairs = before[item % EARLY][tap];
#pragma unroll
            for (int i = 0; i < VECTOR / 2; i++) pairs[i] = 0;
            if (row_of(item) < rows) take(pairs, recent_at(item, (oldest + tap) % 3));
        }
    };
    const int here = (min(In::LEFT / LINE, rows - first) + 7) / 8 * 8;           // rows that there are, by eights
    auto recent_of_tile = [&](int i) {               // of a group and a slot
        return recent_of(column / 32 + i / 3, (oldest + i % 3) % 3) + first * 32;
    };
    if (X && consumer) {
#pragma unroll
        for (int i = 0; i < EARLY && !LATE; i++) ask_for_recent(i);
    }
    wait_for_kernel_before();
    let_next_kernel_begin();

    if (!consumer) {
        if (tid == In::CONSUMERS)
            In::fill(s.ring, s.barriers, weights, e.stream + (long long)first * WIDTH, WIDTH / TERMS);
        for (int i = 0; i < GROUPS_OF_32 && LATE && tid == In::CONSUMERS; i++) {
            In::emptied(s.barriers, (i + 1) * GROUP_BYTES);
            arrive_and_expect(recent_here + i, 3 * here * 64);
            for (int tap = 0; tap < 3; tap++)
                copy_in(s.ring + i * GROUP_BYTES + tap * SLOT_BYTES, recent_of_tile(3 * i + tap), here * 64,
                        recent_here + i);
        }
        if (X && In::ACROSS > 1) {
            __syncthreads();
            __syncthreads();
        }
        return;
    }
    // Parts of the sums of squares, asked for now and added up after the product.
    constexpr int TOGETHER = PARTS % 4 == 0 ? 4 : 1, LOADS = (PARTS / TOGETHER + 3) / 4;
    float parts[2][LOADS][TOGETHER];
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int at = (4 * i + t) * TOGETHER;
            const float* from = e.squares + (own_row + 8 * half) * PARTS + at;
#pragma unroll
            for (int k = 0; k < TOGETHER; k++) parts[half][i][k] = 0.0f;
            if (at < PARTS) take_fresh(parts[half][i], from);
        }
    float scale[2] = {};
    unsigned inputs[In::EACH / 8][2];                // u, by eight columns of the product and the two rows
    {
        float d[In::EACH / 2];
        In::multiply(d, s.ring, s.barriers);
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int i = 0; i < LOADS; i++)
#pragma unroll
                for (int k = 0; k < TOGETHER; k++) scale[half] += parts[half][i][k];
            scale[half] += __shfl_xor_sync(~0u, scale[half], 1);
            scale[half] += __shfl_xor_sync(~0u, scale[half], 2);
            scale[half] = inverse_root(scale[half] * (1.0f / WIDTH) + EPS);
        }
        if (X) wait(select_here, 0);
#pragma unroll
        for (int item = 0; item < ITEMS; item++) {
            constexpr int PAIRS = VECTOR / 2;
            const int octet = item / 2 * PAIRS, half = item % 2, place = column_of(item);
            const bool inside = row_of(item) < rows;
            const long long at = packed(row_of(item), column + place);
            float v[VECTOR];
            unsigned two[PAIRS];
#pragma unroll
            for (int i = 0; i < VECTOR; i++) v[i] = d[4 * (octet + i / 2) + 2 * half + i % 2] * scale[half];
            if (!X) {
#pragma unroll
                for (int i = 0; i < PAIRS; i++)
                    two[i] = both(v[2 * i] * sigmoid(v[2 * i]), v[2 * i + 1] * sigmoid(v[2 * i + 1]));
                if (inside) give(e.gate + at, two);
                continue;
            }
            float sum[VECTOR], weight[VECTOR];
            take(sum, s.small + 4 * COLUMNS_IN + place);
            take(weight, s.small + 3 * COLUMNS_IN + place);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) sum[i] += weight[i] * v[i];
            if (LATE && item % 2 == 0) wait(recent_here + place / 32, 0);
#pragma unroll
            for (int tap = 0; tap < 3; tap++) {
                take(weight, s.small + tap * COLUMNS_IN + place);
                if (LATE)
                    take_here(before[0][tap], (const bf16*)(s.ring + place / 32 * GROUP_BYTES + tap * SLOT_BYTES)
                                              + (row_of(item) - first) * 32 + place % 32);
#pragma unroll
                for (int i = 0; i < VECTOR; i++) {
                    unsigned pair = before[item % EARLY][tap][i / 2];
                    sum[i] += weight[i] * (i % 2 ? high(pair) : low(pair));
                }
            }
            if (!LATE && item + EARLY < ITEMS) ask_for_recent(item + EARLY);
#pragma unroll
            for (int i = 0; i < PAIRS; i++) two[i] = both(v[2 * i], v[2 * i + 1]);
            if (inside) give(recent_at(item, oldest), two);
#pragma unroll
            for (int i = 0; i < PAIRS; i++)
                inputs[octet + i][half] = two[i] = both(sum[2 * i] * sigmoid(sum[2 * i]),
                                                        sum[2 * i + 1] * sigmoid(sum[2 * i + 1]));
            if (inside) give(e.u + at, two);
        }
    }
    if (!X) return;
    // What these columns of u add to the selection.
    float d[SELECTED / 2];
#pragma unroll
    for (int i = 0; i < SELECTED / 2; i++) d[i] = 0.0f;
    product_begin();
#pragma unroll
    for (int j = 0; j < In::EACH / 16; j++) {
        unsigned left[4] = {inputs[2 * j][0], inputs[2 * j][1], inputs[2 * j + 1][0], inputs[2 * j + 1][1]};
        int term = group % In::ACROSS * In::EACH + 16 * j;
        product<SELECTED>(d, left, s.select + term / TERMS * (SELECTED * LINE) + term % TERMS * 2);
    }
    product_end();
    products_left<0>();
    // Of two groups of warps with the same rows each adds up half of the octets of columns.
    const int begin = In::ACROSS > 1 && group % 2 ? FIRST_OCTETS : 0;
    const int end = In::ACROSS > 1 && group % 2 == 0 ? FIRST_OCTETS : OCTETS;
    if (In::ACROSS > 1) {
        float4* others = (float4*)s.ring + tid % 128;
        __syncthreads();                             // nobody needs the ring any more
#pragma unroll
        for (int o = 0; o < OCTETS; o++)
            if (o < begin || o >= end)
                others[128 * o] = make_float4(d[4 * o], d[4 * o + 1], d[4 * o + 2], d[4 * o + 3]);
        __syncthreads();
#pragma unroll
        for (int o = 0; o < OCTETS; o++)
            if (o >= begin && o < end) {
                float4 more = others[128 * o];
                d[4 * o] += more.x, d[4 * o + 1] += more.y, d[4 * o + 2] += more.z, d[4 * o + 3] += more.w;
            }
    }
    float* to = e.partials + (tile * e.all + own_row) * SELECTED + 2 * t;
#pragma unroll
    for (int o = 0; o < OCTETS; o++) {
        if (o < begin || o >= end) continue;
        if (own_row < rows) *(float2*)(to + 8 * o) = make_float2(d[4 * o], d[4 * o + 1]);
        if (own_row + 8 < rows) *(float2*)(to + 8 * o + 8 * SELECTED) = make_float2(d[4 * o + 2], d[4 * o + 3]);
    }
}

// Blocks: [INNER / COLUMNS_IN (rows / ROWS_X + rows / ROWS_Z)]; those of x come first. in_weights [layers] [2 INNER /
// COLUMNS_IN][WIDTH / 64][COLUMNS_IN][64], select [layers][INNER / COLUMNS_IN][U_BLOCKS][SELECTED][64], both with the
// columns of a group of warps in the order in which a thread's are neighbours (mamba_layer.py's `neighbours`); stream
// in blocks; squares [2][padded][PARTS], before the first layer and later; recent [layers][3][INNER / 32][rows][32];
// u, gate [rows][INNER], packed; partials [PARTIALS][rows][SELECTED]. A launch has some of `all` rows: what is so many
// rows large begins, for it, at its first.
extern "C" __global__ __launch_bounds__(IN_THREADS, 1) void enter(
        const bf16* in_weights, const bf16* select, const float* small, const bf16* stream, const float* squares,
        bf16* recent, const int* clock, bf16* u, bf16* gate, float* partials, long long layer, long long rows_,
        long long all, long long padded) {
    SHARED_MEMORY(memory);
    EnterShared& s = *(EnterShared*)memory;
    const long long slot = (all + 7) / 8 * 8 * INNER;
    const Entering given = {in_weights + layer * (2 * INNER * WIDTH), select + layer * PARTIALS * (SELECT_BYTES / 2),
                            small + layer * SMALL, stream, squares + (layer > 0) * padded * PARTS,
                            recent + layer * 3 * slot, slot, clock, u, gate, partials, all, (int)rows_};
    const int x_blocks = (given.rows + ROWS_X - 1) / ROWS_X * PARTIALS, block = blockIdx.x;
    // Layer 0 comes after the embedding, which counts the clock.
    if (layer == 0) wait_for_kernel_before();
    if (block < x_blocks)
        enter_block<InX, true>(s, given, block % PARTIALS, block / PARTIALS);
    else
        enter_block<InZ, false>(s, given, (block - x_blocks) % PARTIALS, (block - x_blocks) / PARTIALS);
}

constexpr int UPDATE_WARPS = CHANNELS / 32;
constexpr int TAKEN = ROWS * SELECTED / 4;           // of the selection, four numbers at a time
constexpr int TAKEN_EACH = (TAKEN + CHANNELS - 1) / CHANNELS;
constexpr int LOW_RANK = (RANKS + 2) / 4 * 64 + 16;  // so that the rows of eight lanes begin in other banks
constexpr int STATES = SIZE * STATE_BYTES / 16;      // of 16 bytes, of a channel
constexpr int STEP_WIDE = CHANNELS + 4;

struct UpdateShared {
    uint4 states[ROWS][CHANNELS][STATES];
    bf16 low_rank[2][ROWS][LOW_RANK];                // what its rounding has left is the second
    float ends[ROWS][2 * SIZE];                      // B and C
    float step[ROWS][STEP_WIDE];
    bf16 inputs[UPDATE_WARPS][ROWS][32], gates[UPDATE_WARPS][ROWS][32];          // u and then y, silu(z)
    unsigned long long barriers[ROWS];
};

// Blocks: [INNER / CHANNELS, rows / ROWS]. steps [layers][INNER / 16][RANKS][32], 8 weights a lane; state [layers]
// [rows][INNER][16]; y in blocks.
extern "C" __global__ __launch_bounds__(CHANNELS, 2) void update(
        const uint4* steps, const float* small, const float* partials, const bf16* u, const bf16* gate, char* state,
        bf16* y, long long layer, long long rows_, long long all, long long) {
    SHARED_MEMORY(memory);
    UpdateShared& s = *(UpdateShared*)memory;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4, rows = (int)rows_;
    const int first = blockIdx.y * ROWS, here = min(ROWS, rows - first);
    const int column = blockIdx.x * CHANNELS, own = column + tid;                // a thread has one channel
    auto states_of = [&](int row) {
        return state + ((layer * all + first + row) * INNER + column) * (SIZE * STATE_BYTES);
    };
    if (tid == 0) {
        for (int row = 0; row < here; row++) barrier_init(s.barriers + row, 1);
        barriers_ready();
        for (int row = 0; row < here; row++) {
            arrive_and_expect(s.barriers + row, sizeof(s.states[row]));
            copy_in_once(s.states[row], states_of(row), sizeof(s.states[row]), s.barriers + row);
        }
    }
    // In which order a lane takes the 16 bytes of a channel's states, so that neighbours use other banks.
    const int order = (STATE_BYTES == 2 ? lane / 4 : lane / 2) % STATES;
    constexpr int PER = SIZE / STATES;               // states in 16 bytes
    const float *biases = small + layer * SMALL + 5 * INNER, *skips = biases + INNER, *rates = skips + INNER;
    const float skip = skips[own];
    float rate[SIZE];
#pragma unroll
    for (int i = 0; i < SIZE / 4; i++) {
        float4 four = *(const float4*)(rates + own * SIZE + (i * 4 / PER ^ order) * PER + i * 4 % PER);
        rate[4 * i] = four.x, rate[4 * i + 1] = four.y, rate[4 * i + 2] = four.z, rate[4 * i + 3] = four.w;
    }
    // A warp has 32 channels; a product, 16 of them and the rows.
    const int group = column + warp * 32;
    uint4 step_weight[2][RANKS];
    float bias[2][2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bias[i][0] = biases[group + 16 * i + g], bias[i][1] = biases[group + 16 * i + g + 8];
#pragma unroll
        for (int k = 0; k < RANKS; k++)
            step_weight[i][k] = fixed(steps + ((layer * (INNER / 16) + group / 16 + i) * RANKS + k) * 32 + lane);
    }
    if (RANK % 16 && tid < 2 * ROWS)                     // terms that there are not
        *(uint4*)&s.low_rank[tid / ROWS][tid % ROWS][RANK] = make_uint4(0, 0, 0, 0);
    wait_for_kernel_before();
    let_next_kernel_begin();

    // All that has to be read, before any of it is used.
    uint4 taken[TAKEN_EACH][PARTIALS];
#pragma unroll
    for (int i = 0; i < TAKEN_EACH; i++) {
        int four = min(tid + i * CHANNELS, here * (SELECTED / 4) - 1);
#pragma unroll
        for (int part = 0; part < PARTIALS; part++)
            taken[i][part] = fresh16(partials + (part * all + first) * SELECTED + four * 4);
    }
    // Of the warp's channels, 8 of a row.
    const int row_here = lane / 4, eight_here = lane % 4 * 8;
    const bool alive = row_here < here;
    const long long at = packed(first + row_here, group + eight_here);
    const uint4 inputs = alive ? fresh16(u + at) : make_uint4(0, 0, 0, 0);
    const uint4 gates = alive ? fresh16(gate + at) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < TAKEN_EACH; i++) {
        int four = tid + i * CHANNELS, row = four / (SELECTED / 4), at = four % (SELECTED / 4) * 4;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int part = 0; part < PARTIALS; part++) {
            uint4 v = taken[i][part];
            sum.x += __uint_as_float(v.x), sum.y += __uint_as_float(v.y);
            sum.z += __uint_as_float(v.z), sum.w += __uint_as_float(v.w);
        }
        if (four >= TAKEN) continue;
        if (at >= RANK) {
            *(float4*)&s.ends[row][at - RANK] = sum;
        } else {  // in two parts, so that a product with both is one in float32
            uint2 whole = make_uint2(both(sum.x, sum.y), both(sum.z, sum.w));
            *(uint2*)&s.low_rank[0][row][at] = whole;
            *(uint2*)&s.low_rank[1][row][at] = make_uint2(both(sum.x - low(whole.x), sum.y - high(whole.x)),
                                                          both(sum.z - low(whole.y), sum.w - high(whole.y)));
        }
    }
    *(uint4*)&s.inputs[warp][row_here][eight_here] = inputs;
    *(uint4*)&s.gates[warp][row_here][eight_here] = gates;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float d[4] = {};
#pragma unroll
        for (int k = 0; k < 2 * RANKS; k++) {
            const uint4& w = step_weight[i][k / 2];
            uint2 x = *(const uint2*)&s.low_rank[k % 2][g][16 * (k / 2) + 4 * t];
            mma(d, w.x, w.y, w.z, w.w, x.x, x.y);
        }
        float* to = &s.step[2 * t][warp * 32 + 16 * i + g];
        to[0] = softplus(d[0] + bias[i][0]), to[STEP_WIDE] = softplus(d[1] + bias[i][0]);
        to[8] = softplus(d[2] + bias[i][1]), to[STEP_WIDE + 8] = softplus(d[3] + bias[i][1]);
    }
    __syncwarp();
    // Two rows at a time, so that neither waits for the other.
#pragma unroll
    for (int row = 0; row < ROWS; row += 2) {
        float h[2][SIZE], step[2], in[2], sums[2][2];
        if (row % 4 == 0)
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (row + k < here) wait(s.barriers + row + k, 0);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float x = wide(s.inputs[warp][row + k][lane]);
            step[k] = s.step[row + k][tid];
            in[k] = step[k] * x, sums[k][0] = skip * x, sums[k][1] = 0.0f;
        }
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int q = 0; q < STATES; q++) {
                uint4 some = s.states[row + k][tid][q ^ order];
                float* now = h[k] + q * PER;
                if (STATE_BYTES == 2) {
                    now[0] = low(some.x), now[1] = high(some.x), now[2] = low(some.y), now[3] = high(some.y);
                    now[4 % PER] = low(some.z), now[5 % PER] = high(some.z);
                    now[6 % PER] = low(some.w), now[7 % PER] = high(some.w);
                } else {
                    now[0] = __uint_as_float(some.x), now[1] = __uint_as_float(some.y);
                    now[2] = __uint_as_float(some.z), now[3] = __uint_as_float(some.w);
                }
            }
#pragma unroll
        for (int i = 0; i < SIZE; i += 4)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const float* ends = s.ends[row + k] + (i / PER ^ order) * PER + i % PER;
                const float4 b = *(const float4*)ends, c = *(const float4*)(ends + SIZE);
                float* now = h[k] + i;
                now[0] = exp2_(step[k] * rate[i]) * now[0] + in[k] * b.x;
                now[1] = exp2_(step[k] * rate[i + 1]) * now[1] + in[k] * b.y;
                now[2] = exp2_(step[k] * rate[i + 2]) * now[2] + in[k] * b.z;
                now[3] = exp2_(step[k] * rate[i + 3]) * now[3] + in[k] * b.w;
                sums[k][0] += now[0] * c.x;
                sums[k][1] += now[1] * c.y;
                sums[k][0] += now[2] * c.z;
                sums[k][1] += now[3] * c.w;
            }
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int q = 0; q < STATES; q++) {
                const float* now = h[k] + q * PER;
                s.states[row + k][tid][q ^ order] = STATE_BYTES == 2
                    ? make_uint4(both(now[0], now[1]), both(now[2], now[3]), both(now[4 % PER], now[5 % PER]),
                                 both(now[6 % PER], now[7 % PER]))
                    : make_uint4(__float_as_uint(now[0]), __float_as_uint(now[1]), __float_as_uint(now[2]),
                                 __float_as_uint(now[3]));
            }
            s.inputs[warp][row + k][lane] = rounded((sums[k][0] + sums[k][1])
                                                     * wide(s.gates[warp][row + k][lane]));
        }
        if (row % 4 == 0) continue;
        // What a warp, 32 channels, has written is sent on four rows at a time.
        written();
        __syncwarp();
        int sent = row - 2 + lane;
        if (lane < 4 && sent < here)
            copy_out_once(states_of(sent) + warp * (32 * SIZE * STATE_BYTES), s.states[sent][warp * 32],
                          32 * SIZE * STATE_BYTES);
    }
    if (alive)                                       // only now, as `written` would have waited for it
        *(uint4*)(y + tiled(first + row_here, group + eight_here, INNER / TERMS)) =
            *(const uint4*)&s.inputs[warp][row_here][eight_here];
    if (lane < 4) finish_copies_out();
}

typedef Product<ROWS_OUT / 64, ROWS_OUT, COLUMNS_OUT, STAGES_OUT, INNER / TERMS / SPLIT> Out;
constexpr int OUT_THREADS = Out::CONSUMERS + 32;
constexpr int OUT_VECTOR = OWN % 32 == 0 ? 8 : 4, OUT_ITEMS = OWN / (2 * OUT_VECTOR);         // as in `enter`
constexpr int INBOX = (SPLIT - 1) * (OWN / 8) * Out::CONSUMERS;

struct LeaveShared {
    char ring[STAGES_OUT * Out::STAGE];
    float4 inbox[INBOX > 0 ? INBOX : 1];             // what other blocks of the cluster have for a thread
    unsigned long long barriers[2 * STAGES_OUT];
};
static_assert(OWN % (4 * OUT_VECTOR) == 0 && OWN * SPLIT == COLUMNS_OUT, "");

// Blocks: [WIDTH / COLUMNS_OUT, rows / ROWS_OUT, SPLIT]. out_weights [layers][WIDTH / COLUMNS_OUT][INNER / 64]
// [COLUMNS_OUT][64], with each OWN columns in the order in which a thread's are neighbours; y in blocks; hidden [rows]
// [WIDTH]; the rest as in `enter`. A block completes OWN of its columns, and gives the others of a cluster its part of
// theirs.
extern "C" __global__ __launch_bounds__(OUT_THREADS, 1) void leave(
        const bf16* out_weights, const bf16* y, float* hidden, bf16* stream, float* squares, long long layer,
        long long rows_, long long, long long padded) {
    SHARED_MEMORY(memory);
    LeaveShared& s = *(LeaveShared*)memory;
    const int tid = threadIdx.x, rows = (int)rows_, tile = blockIdx.x, first = blockIdx.y * ROWS_OUT;
    const int part = SPLIT > 1 ? blockIdx.z : 0;
    const bool consumer = tid < Out::CONSUMERS;
    const bf16* weights = out_weights + (layer * (WIDTH / COLUMNS_OUT) + tile) * (INNER * COLUMNS_OUT)
                          + part * (INNER / SPLIT * COLUMNS_OUT);
    if (tid == Out::CONSUMERS) {
        Out::init(s.barriers);
        barriers_ready();
    }
    __syncthreads();
    if (SPLIT > 1) cluster_arrive();                 // under way, so that others can reach this block
    if (tid == Out::CONSUMERS) Out::ask(s.ring, s.barriers, weights, blockIdx.y == 0);
    const int lane = tid % 32, own_row = first + tid / 32 * 16 + lane / 4;
    const int column = tile * COLUMNS_OUT + part * OWN + lane % 4 * OUT_VECTOR;
    auto row_of = [&](int item) { return own_row + item % 2 * 8; };
    auto column_of = [&](int item) { return column + item / 2 * (4 * OUT_VECTOR); };
    float residual[OUT_ITEMS][OUT_VECTOR];
    if (consumer)
#pragma unroll
        for (int item = 0; item < OUT_ITEMS; item++)
#pragma unroll
            for (int i = 0; i < OUT_VECTOR; i += 4) {
                uint4 v = row_of(item) < rows ? fresh16(hidden + (long long)row_of(item) * WIDTH + column_of(item) + i)
                                              : make_uint4(0, 0, 0, 0);
                residual[item][i] = __uint_as_float(v.x), residual[item][i + 1] = __uint_as_float(v.y);
                residual[item][i + 2] = __uint_as_float(v.z), residual[item][i + 3] = __uint_as_float(v.w);
            }
    wait_for_kernel_before();
    let_next_kernel_begin();

    float sum[OWN / 2];
    if (consumer) {
        float d[COLUMNS_OUT / 2];
        Out::multiply(d, s.ring, s.barriers);
        if (SPLIT > 1) cluster_wait();
#pragma unroll
        for (int block = 0; block < SPLIT; block++)
#pragma unroll
            for (int i = 0; i < OWN / 8; i++) {
                const float* v = d + block * (OWN / 2) + 4 * i;
                if (block != part)
                    put_in(s.inbox + ((part - (part > block)) * (OWN / 8) + i) * Out::CONSUMERS + tid, block,
                           make_float4(v[0], v[1], v[2], v[3]));
                else
                    sum[4 * i] = v[0], sum[4 * i + 1] = v[1], sum[4 * i + 2] = v[2], sum[4 * i + 3] = v[3];
            }
    } else {
        if (tid == Out::CONSUMERS)
            Out::fill(s.ring, s.barriers, weights, y + (long long)first * INNER + part * (INNER / SPLIT) * 64,
                      INNER / TERMS);
        if (SPLIT > 1) {
            __syncwarp();
            cluster_wait();
        }
    }
    if (SPLIT > 1) {
        cluster_arrive();
        cluster_wait();
    }
    if (!consumer) return;
    // In the order of the terms.
#pragma unroll
    for (int i = 0; i < OWN / 8 && SPLIT > 1; i++) {
        float4 own = make_float4(sum[4 * i], sum[4 * i + 1], sum[4 * i + 2], sum[4 * i + 3]);
        float4 all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int block = 0; block < SPLIT; block++) {
            const int from = (block - (block > part)) % max(SPLIT - 1, 1);       // of its own: any
            const float4& other = s.inbox[(from * (OWN / 8) + i) * Out::CONSUMERS + tid];
            float4 v = block == part ? own : other;
            all.x += v.x, all.y += v.y, all.z += v.z, all.w += v.w;
        }
        sum[4 * i] = all.x, sum[4 * i + 1] = all.y, sum[4 * i + 2] = all.z, sum[4 * i + 3] = all.w;
    }
    float square[2] = {};
#pragma unroll
    for (int item = 0; item < OUT_ITEMS; item++) {
        const int half = item % 2, row = row_of(item);
        float v[OUT_VECTOR];
#pragma unroll
        for (int i = 0; i < OUT_VECTOR; i++) {
            v[i] = residual[item][i] + sum[4 * (item / 2 * (OUT_VECTOR / 2) + i / 2) + 2 * half + i % 2];
            square[half] += v[i] * v[i];
        }
        if (row >= rows) continue;
        float* to = hidden + (long long)row * WIDTH + column_of(item);
        unsigned two[OUT_VECTOR / 2];
#pragma unroll
        for (int i = 0; i < OUT_VECTOR; i += 4) *(float4*)(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
#pragma unroll
        for (int i = 0; i < OUT_VECTOR / 2; i++) two[i] = both(v[2 * i], v[2 * i + 1]);
        give(stream + tiled(row, column_of(item), WIDTH / TERMS), two);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        square[half] += __shfl_xor_sync(~0u, square[half], 1);
        square[half] += __shfl_xor_sync(~0u, square[half], 2);
        if (lane % 4 == 0 && row_of(half) < rows)
            squares[(padded + row_of(half)) * PARTS + tile * SPLIT + part] = square[half];
    }
}
