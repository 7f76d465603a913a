// Runs the kernels of mamba_layer.cu on a CPU, one after the other.
#include "emulation_fibers.h"

// A barrier in shared memory, and the bytes that it still waits for.
struct Counter {
    unsigned char arrivals, missing;
    unsigned short phase;
    int bytes;
    void check() {
        if (missing || bytes) return;
        phase++;
        missing = arrivals;
    }
};
static_assert(sizeof(Counter) == 8);
static Counter& counter(unsigned long long* barrier) {
    if ((size_t)barrier % 8) abort();
    return *(Counter*)barrier;
}
static void barrier_init(unsigned long long* barrier, unsigned arrivals) {
    counter(barrier) = {(unsigned char)arrivals, (unsigned char)arrivals, 0, 0};
}
static void barriers_ready() {}
static void arrive(unsigned long long* barrier) {
    counter(barrier).missing--;
    counter(barrier).check();
}
static void arrive_and_expect(unsigned long long* barrier, unsigned bytes) {
    counter(barrier).bytes += bytes;
    arrive(barrier);
}
// Copies under way: they are made as late as can be, when a thread waits for them.
struct Copy {
    void* to;
    const void* from;
    unsigned bytes;
    unsigned long long* barrier;
};
static std::vector<Copy> copies;
static bool over(unsigned long long* barrier, unsigned parity) {
    for (size_t i = 0; i < copies.size(); i++) {
        Copy copy = copies[i];
        if (copy.barrier != barrier) continue;
        copies.erase(copies.begin() + i);
        memcpy(copy.to, copy.from, copy.bytes);
        counter(barrier).bytes -= copy.bytes;
        counter(barrier).check();
        break;
    }
    yield_();
    return (counter(barrier).phase & 1) != parity;
}
static void copy_in(void* shared, const void* global, unsigned bytes, unsigned long long* barrier) {
    if ((size_t)shared % 16 || (size_t)global % 16 || bytes % 16) abort();
    copies.push_back({shared, global, bytes, barrier});
}
static void copy_in_once(void* shared, const void* global, unsigned bytes, unsigned long long* barrier) {
    copy_in(shared, global, bytes, barrier);
}
static void copy_out_once(void* global, const void* shared, unsigned bytes) {
    if ((size_t)shared % 16 || (size_t)global % 16 || bytes % 16) abort();
    memcpy(global, shared, bytes);
}
static void finish_copies_out() {}
static void give16(void* to, const uint4& value) {
    if ((size_t)to % 16) abort();
    *(uint4*)to = value;
}
static void give8(void* to, const uint2& value) {
    if ((size_t)to % 8) abort();
    *(uint2*)to = value;
}
static void written() {}
static void product_begin() {}
static void product_end() {}
template <int MOST> inline void products_left() { meet(now->warp->meeting); }  // of a whole warp
static void wait_for_kernel_before() {}
static void let_next_kernel_begin() {}
// Who has arrived goes on; who waits waits for all to have arrived.
static void cluster_arrive() {
    Meeting& all = *now->block->cluster;
    now->turn_of_cluster = all.turn;
    if (++all.come < all.size) return;
    all.come = 0;
    all.turn++;
}
static void cluster_wait() {
    while (now->turn_of_cluster == now->block->cluster->turn) yield_();
}
static void put_in(float4* mine, int block, const float4& value) {
    *(float4*)((char*)mine - now->block->shared + now->block->cluster_blocks[block].shared) = value;
}

// An element of a matrix in shared memory whose rows have 128 bytes; `matrix` points to 16 terms of its first row.
static float element(const char* matrix, int row, int term) {
    size_t offset = matrix - now->block->shared, from = offset % 128 + 2 * term;
    if ((offset - offset % 128) % 1024) abort();
    return __uint_as_float((unsigned)*(const bf16*)(matrix - offset % 128 + row * 128 + (from / 16 ^ row % 8) * 16
                                                    + from % 16) << 16);
}
template <int N> inline void product(float (&d)[N / 2], const char* a, const char* b) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    for (int i = 0; i < N / 2; i++) {
        int row = 16 * warp + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) d[i] += element(a, row, k) * element(b, column, k);
    }
}
template <int N> inline void product(float (&d)[N / 2], const unsigned (&a)[4], const char* b) {
    auto given = exchange({a[0], a[1], a[2], a[3]});
    int lane = threadIdx.x % 32;
    for (int i = 0; i < N / 2; i++) {
        int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++)
            d[i] += half_of(given[row % 8 * 4 + k % 8 / 2][k / 8 * 2 + row / 8], k % 2) * element(b, column, k);
    }
}

#include "mamba_layer.cu"

// Each returns whether the kernel's shared memory is as large as `bytes`, and somebody has waited for every copy.
static Place place_of(const int* numbers) { return {numbers[0], numbers[1], numbers[2]}; }
extern "C" int emulate_enter(const int* grid, const int* cluster, long long bytes, const long long* numbers, int seed) {
    run([] { call(enter); }, place_of(grid), place_of(cluster), IN_THREADS, sizeof(EnterShared), numbers, seed);
    return copies.empty() && bytes == sizeof(EnterShared);
}
extern "C" int emulate_update(const int* grid, const int* cluster, long long bytes, const long long* numbers, int seed) {
    run([] { call(update); }, place_of(grid), place_of(cluster), CHANNELS, sizeof(UpdateShared), numbers, seed);
    return copies.empty() && bytes == sizeof(UpdateShared);
}
extern "C" int emulate_leave(const int* grid, const int* cluster, long long bytes, const long long* numbers, int seed) {
    if (cluster[2] != SPLIT) abort();
    run([] { call(leave); }, place_of(grid), place_of(cluster), OUT_THREADS, sizeof(LeaveShared), numbers, seed);
    return copies.empty() && bytes == sizeof(LeaveShared);
}
