// What the CUDA kernels here share; cuda_kernels.py puts it before their code.

#ifndef EMULATED
typedef unsigned short bf16;
#define DEVICE __device__ __forceinline__
DEVICE float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float log2_(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float inverse(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float inverse_root(float x) { return rsqrtf(x); }
DEVICE bf16 rounded(float x) { bf16 y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }
DEVICE unsigned both(float x, float y) {
    unsigned two;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(y), "f"(x));
    return two;
}

// What nobody writes while the kernel runs.
DEVICE uint4 fixed(const void* from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// What other blocks have written while this one was under way: from the L2 cache, as the first is not kept up to date.
DEVICE uint4 fresh16(const void* from) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
    return v;
}
DEVICE uint2 fresh8(const void* from) {
    uint2 v;
    asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from) : "memory");
    return v;
}
DEVICE float fresh(const float* from) {
    float v;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
    return v;
}
DEVICE bf16 fresh(const bf16* from) {
    bf16 v;
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v) : "l"(from) : "memory");
    return v;
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

// Needs compute capability 9.0.
DEVICE void to_l2(const void* from, unsigned bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(from), "r"(bytes) : "memory");
}
#endif

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

DEVICE float wide(bf16 x) { return __uint_as_float((unsigned)x << 16); }
DEVICE float low(unsigned two) { return __uint_as_float(two << 16); }
DEVICE float high(unsigned two) { return __uint_as_float(two & 0xffff0000u); }
DEVICE float sigmoid(float x) { return inverse(1.0f + exp2_(-LOG2E * x)); }

DEVICE float softplus(float x) {
    float e = exp2_(LOG2E * x);
    float few = e * (1.0f - e * (0.5f - e * (0.33333333f - e * (0.25f - e * 0.2f))));  // log(1 + e) of a small e
    float many = LN2 * log2_(1.0f + e);
    return x > 20.0f ? x : e < 0.0625f ? few : many;
}

// c [16, 8] += a [16, 32] b [32, 8], in two halves, so that products of which none waits for another can stand between
// them: `upper` and `lower`, 8 terms of row lane / 4 of a and of the 8th row after it; `column`, the same terms of
// column lane / 4 of b. The order of the terms of a sum is free: of every 32, the four lanes of a row read 8 each, 16
// bytes at a time, which serve two mma's.
DEVICE void multiply(float* c, const uint4& upper, const uint4& lower, const uint4& column, int second) {
    if (second)
        mma(c, upper.z, lower.z, upper.w, lower.w, column.z, column.w);
    else
        mma(c, upper.x, lower.x, upper.y, lower.y, column.x, column.y);
}
DEVICE void multiply(float* c, const uint4& upper, const uint4& lower, const uint4& column) {
    multiply(c, upper, lower, column, 0);
    multiply(c, upper, lower, column, 1);
}
