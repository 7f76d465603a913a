// Runs mamba_step.cu on a CPU.
#include "emulation_fibers.h"

#include "mamba_step.cu"

extern "C" void emulate(const long long* numbers, int seed) {
    run([] { call(mamba_step); }, {BLOCKS, 1, 1}, {1, 1, 1}, THREADS, sizeof(Shared), numbers, seed);
}

// Addresses and bytes that the last run has asked for ahead of time; their number.
extern "C" int prefetches(long long* addresses, long long* bytes, int most) {
    for (int i = 0; i < (int)prefetched.size() && i < most; i++) {
        addresses[i] = (long long)prefetched[i].first;
        bytes[i] = prefetched[i].second;
    }
    return prefetched.size();
}
