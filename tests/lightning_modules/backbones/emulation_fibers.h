// Runs CUDA kernels on a CPU. Threads wait for each other, so that those of all blocks must be under way at once: each
// has a stack of its own, and one thread of the CPU changes between them where they wait, in an order of chance.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <ucontext.h>
#include <utility>
#include <vector>

#define EMULATED
#define DEVICE inline
#define __global__
#define __launch_bounds__(...)
#define __restrict__
#define __align__(bytes) alignas(bytes)
#define SHARED(type, name) type& name = *(type*)shared_memory()
#define SHARED_MEMORY(name) char* name = (char*)shared_memory()

typedef unsigned short bf16;
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct Place { int x, y, z; };
static Place threadIdx, blockIdx, gridDim;

struct Fiber;
struct Meeting {
    int size, come = 0, turn = 0;
    std::vector<Fiber*> waiting;
};
struct Warp {
    Meeting meeting{32};
    unsigned given[2][32][6];
};
struct Block {
    Meeting meeting;
    Meeting* cluster;
    Block* cluster_blocks;
    Place place;
    std::vector<char> memory;
    char* shared;
};
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    Block* block;
    Warp* warp;
    int thread, turn = 0, turn_of_cluster;
};
static Fiber* now;
static ucontext_t scheduler;
static std::vector<Fiber*> ready;
static std::vector<std::pair<const void*, unsigned>> prefetched;

static void leave_() { swapcontext(&now->context, &scheduler); }
static void yield_() {
    ready.push_back(now);
    leave_();
}
static void meet(Meeting& m) {
    if (++m.come == m.size) {
        m.come = 0;
        ready.insert(ready.end(), m.waiting.begin(), m.waiting.end());
        m.waiting.clear();
    } else {
        m.waiting.push_back(now);
        leave_();
    }
}
static void* shared_memory() { return now->block->shared; }
static void __syncthreads() { meet(now->block->meeting); }
static void __syncwarp() { meet(now->warp->meeting); }

// What every lane of the warp gives; the next exchange uses the other half, so that one meeting is enough.
static unsigned (*exchange(std::initializer_list<unsigned> values))[6] {
    auto given = now->warp->given[now->turn++ % 2];
    std::copy(values.begin(), values.end(), given[now->thread % 32]);
    meet(now->warp->meeting);
    return given;
}

using std::max;
using std::min;
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static float exp2_(float x) { return exp2f(x); }
static float log2_(float x) { return log2f(x); }
static float inverse(float x) { return 1.0f / x; }
static float inverse_root(float x) { return 1.0f / sqrtf(x); }
static bf16 rounded(float x) {
    unsigned u = __float_as_uint(x);
    return x != x ? 0x7fff : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
static uint4 fixed(const void* from) {
    if ((size_t)from % 16) abort();
    return *(const uint4*)from;
}
static uint4 fresh16(const void* from) { return fixed(from); }
static uint2 fresh8(const void* from) {
    if ((size_t)from % 8) abort();
    return *(const uint2*)from;
}
static float fresh(const float* from) { return *from; }
static bf16 fresh(const bf16* from) { return *from; }
static void copy_later(uint4* shared, const void* global) { *shared = fixed(global); }
static void wait_for_copies() {}
static void to_l2(const void* from, unsigned bytes) {
    if ((size_t)from % 16 || bytes % 16) abort();
    prefetched.push_back({from, bytes});
}
static float __shfl_xor_sync(unsigned, float value, int other) {
    return __uint_as_float(exchange({__float_as_uint(value)})[now->thread % 32 ^ other][0]);
}
static float half_of(unsigned two, int which) { return __uint_as_float(which ? two & 0xffff0000u : two << 16); }
static void mma(float* c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    auto given = exchange({a0, a1, a2, a3, b0, b1});
    int lane = now->thread % 32;
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            unsigned a = given[row % 8 * 4 + k % 8 / 2][k / 8 * 2 + row / 8];
            unsigned b = given[column * 4 + k % 8 / 2][4 + k / 8];
            c[i] += half_of(a, k % 2) * half_of(b, k % 2);
        }
    }
}

static unsigned both(float x, float y) { return rounded(x) | (unsigned)rounded(y) << 16; }

#include "device.cuh"

static const long long* arguments;

template <class... Types, size_t... Places>
static void call(void (*kernel)(Types...), std::index_sequence<Places...>) {
    kernel((Types)arguments[Places]...);
}
template <class... Types> static void call(void (*kernel)(Types...)) {
    call(kernel, std::index_sequence_for<Types...>{});
}
static void (*body)();
static int left;
static void start() {
    body();
    left--;
    leave_();
}

// A kernel's blocks, in clusters of neighbours, of so many threads and bytes of shared memory.
static void run(void (*kernel)(), Place grid, Place clusters_, int threads, size_t bytes, const long long* numbers,
                int seed) {
    int count = grid.x * grid.y * grid.z, cluster = clusters_.x * clusters_.y * clusters_.z;
    Place outer = {grid.x / clusters_.x, grid.y / clusters_.y, grid.z / clusters_.z};
    body = kernel;
    arguments = numbers;
    left = count * threads;
    gridDim = grid;
    prefetched.clear();
    std::mt19937 chance(seed);
    std::vector<Meeting> clusters(count / cluster);
    std::vector<Block> blocks(count);
    std::vector<Warp> warps(count * threads / 32);
    std::vector<Fiber> fibers(left);
    for (int i = 0; i < count; i++) {
        Block& block = blocks[i];
        block.meeting.size = threads;
        block.cluster = &clusters[i / cluster];
        block.cluster->size = cluster * threads;
        block.cluster_blocks = &blocks[i / cluster * cluster];
        int c = i / cluster, m = i % cluster;
        block.place = {c % outer.x * clusters_.x + m % clusters_.x,
                       c / outer.x % outer.y * clusters_.y + m / clusters_.x % clusters_.y,
                       c / outer.x / outer.y * clusters_.z + m / clusters_.x / clusters_.y};
        block.memory.assign(bytes + 1024, (char)0xff);  // not a number, wherever nothing is written
        block.shared = block.memory.data() + (1024 - (size_t)block.memory.data() % 1024);
    }
    for (int i = 0; i < (int)fibers.size(); i++) {
        Fiber& fiber = fibers[i];
        fiber.block = &blocks[i / threads];
        fiber.warp = &warps[i / 32];
        fiber.thread = i % threads;
        fiber.stack.resize(32 * 1024);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        makecontext(&fiber.context, start, 0);
        ready.push_back(&fiber);
    }
    while (left) {
        if (ready.empty()) {
            fprintf(stderr, "threads wait for others that do not come\n");
            abort();
        }
        std::swap(ready[chance() % ready.size()], ready.back());
        now = ready.back();
        ready.pop_back();
        threadIdx = {now->thread};
        blockIdx = now->block->place;
        swapcontext(&scheduler, &now->context);
    }
    ready.clear();
}
