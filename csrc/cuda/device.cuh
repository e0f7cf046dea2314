// What the kernels use of a GPU beyond plain CUDA C++. Without nvcc they compile as C++ after
// tests/cuda/simt.h, which brings the same names and runs them on the CPU.
#pragma once

#include <cstdint>

#include "../semantics/annotations.h"

#if defined(__CUDACC__)

#include <cstdlib>

// One object for each block.
#define AAF_SHARED(Type, name) __shared__ Type name

namespace albert_act_fast::cuda {

// Relaxed: whole, and seen by all blocks, but with nothing else ordered around it.
__device__ __forceinline__ uint64_t load_relaxed(const uint64_t* from) {
    uint64_t value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
    return value;
}

__device__ __forceinline__ void store_relaxed(uint64_t* to, uint64_t value) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

__device__ __forceinline__ uint64_t add_relaxed(uint64_t* to, uint64_t value) {
    uint64_t before;
    asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], %2;"
                 : "=l"(before)
                 : "l"(to), "l"(value)
                 : "memory");
    return before;
}

// Ordered with all memory accesses, by whatever thread, that another one's is ordered with.
// `volatile` and the memory clobber keep the compiler from moving accesses across.
__device__ __forceinline__ uint64_t add_acquire_release(uint64_t* to, uint64_t value) {
    uint64_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], %2;"
                 : "=l"(before)
                 : "l"(to), "l"(value)
                 : "memory");
    return before;
}

// What was loaded before is asked for before anything is computed from these words. Without it the
// compiler may move the computing up, between the loads.
__device__ __forceinline__ void hold(uint4& words) {
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w)::"memory");
}

// On GPUs that have dependent launches (compute capability 9.0): all that kernels before have
// written is seen from here on, and the next kernel's blocks may come, and wait in turn. A kernel
// launched in the ordinary way begins when the one before has ended, and does not wait here.
__device__ __forceinline__ void wait_for_the_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

inline const char* said(cudaError_t error) {
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Null, or what the runtime says against the launch.
template <class Args>
const char* launch(void (*kernel)(Args), dim3 grid, int threads, const Args& args, void* stream) {
    kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(args);
    return said(cudaGetLastError());
}

// A kernel that waits for the one before by itself. Code compiled for older GPUs does not, be it
// compiled once more for this one by the driver: its launch is an ordinary one.
template <class Args>
const char* launch_dependent(void (*kernel)(Args), dim3 grid, int threads, const Args& args,
                             void* stream) {
    cudaFuncAttributes compiled;
    const cudaError_t error = cudaFuncGetAttributes(&compiled, kernel);
    if (error != cudaSuccess) return said(error);
    const char* wanted = std::getenv("ALBERT_ACT_FAST_DEPENDENT_LAUNCH");
    const bool off = wanted != nullptr && (*wanted == 0 || (*wanted == '0' && wanted[1] == 0));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(unsigned(threads));
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &attribute;
    config.numAttrs = compiled.ptxVersion >= 90 && !off ? 1 : 0;
    return said(cudaLaunchKernelEx(&config, kernel, args));
}

}  // namespace albert_act_fast::cuda

#elif !defined(SIMT_ON_CPU)
#error "compile with nvcc, or after tests/cuda/simt.h"
#endif

namespace albert_act_fast::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
// Of every block.
constexpr int kThreads = 256;

__device__ __forceinline__ int lane() {
    return int(threadIdx.x) % kWarp;
}

// The same bits in every lane: the two sums that meet at each step are the same two.
__device__ __forceinline__ float warp_sum(float value) {
    for (int step = kWarp / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(kAllLanes, value, step);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(kAllLanes, value, step);
        value = other > value ? other : value;
    }
    return value;
}

// By a whole warp: how many of the ascending `values` are below `bound`, 32 looked at at a time.
__device__ __forceinline__ int64_t count_below(const int64_t* values, int64_t count,
                                               int64_t bound) {
    int64_t begin = 0, end = count;  // values[begin - 1] < bound <= values[end]
    while (end > begin) {
        const int64_t step = (end - begin + kWarp - 1) / kWarp;
        const int64_t probe = begin + (lane() + 1) * step - 1;
        const bool below = probe < end && values[probe] < bound;
        const int full = __popc(__ballot_sync(kAllLanes, below));
        const int64_t above = begin + (full + 1) * step - 1;
        begin += full * step;
        end = above < end ? above : end;
    }
    return begin;
}

// Rows that are live.
__device__ __forceinline__ int64_t live_rows(const int64_t* row_count, int64_t rows) {
    return row_count == nullptr ? rows : *row_count;
}

}  // namespace albert_act_fast::cuda
