// Runs scan.cu on a CPU: the 32 lanes of a warp are threads, which wait for each other where they exchange values.
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#define EMULATED
#define WIDTH 64
#define FLOOR floor_now
#define DEVICE static inline
#define __global__
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

extern "C" float floor_now;
float floor_now = 0.0f;

typedef unsigned short bf16;
struct uint4 { unsigned x, y, z, w; };
struct float4 { float x, y, z, w; };
struct Place { int x, y; };
static thread_local Place threadIdx, blockIdx;
static std::barrier<> lanes(32);
static float exchanged[32];

static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static float exp2_(float x) { return exp2f(x); }
static float log2_(float x) { return log2f(x); }
static float inverse(float x) { return 1.0f / x; }
static bf16 rounded(float x) { unsigned u = __float_as_uint(x); return (u + 0x7fff + ((u >> 16) & 1)) >> 16; }
static void copy_later(uint4* shared, const void* global) { memcpy(shared, global, 16); }
static void wait_for_copies() {}
static void __syncwarp() { lanes.arrive_and_wait(); }
static void atomicAdd(float* to, float value) { std::atomic_ref<float>(*to).fetch_add(value); }
static float __shfl_sync(unsigned, float value, int lane) {
    exchanged[threadIdx.x] = value;
    lanes.arrive_and_wait();
    float result = exchanged[lane];
    lanes.arrive_and_wait();
    return result;
}
static float __shfl_xor_sync(unsigned all, float value, int other) {
    return __shfl_sync(all, value, threadIdx.x ^ other);
}

static float inverse_root(float x) { return 1.0f / sqrtf(x); }
static void mma(float*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned) {}  // not used

static unsigned both(float x, float y) { return rounded(x) | (unsigned)rounded(y) << 16; }

#include "device.cuh"
#include "scan.cu"

template <class Kernel> static void run(long long columns, long long rows, Kernel kernel) {
    std::vector<std::thread> threads;
    for (int lane = 0; lane < 32; lane++)
        threads.emplace_back([=] {
            for (int row = 0; row < rows; row++)
                for (int column = 0; column < columns; column++) {
                    threadIdx = {lane, 0};
                    blockIdx = {column, row};
                    kernel();
                    lanes.arrive_and_wait();
                }
        });
    for (auto& thread : threads) thread.join();
}

template <class... Types, size_t... Places>
static void call(void (*kernel)(Types...), const long long* a, std::index_sequence<Places...>) {
    kernel((Types)a[Places]...);
}

template <class... Types> static void launch(void (*kernel)(Types...), long long columns, long long rows,
                                             const long long* arguments) {
    run(columns, rows, [=] { call(kernel, arguments, std::index_sequence_for<Types...>{}); });
}

extern "C" void emulate_scan_forward(long long columns, long long rows, const long long* arguments) {
    launch(scan_forward, columns, rows, arguments);
}

extern "C" void emulate_scan_backward(long long columns, long long rows, const long long* arguments) {
    launch(scan_backward, columns, rows, arguments);
}
