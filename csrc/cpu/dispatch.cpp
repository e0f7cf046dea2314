// Chooses the instruction set when the library is loaded.
#include "kernels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace albert_act_fast::cpu {

#define AAF_DECLARE(name)                                               \
    namespace name {                                                    \
    template <class T>                                                  \
    const Kernels<T>& kernels();                                        \
    uint64_t checksum(const void* words, int64_t first, int64_t count); \
    }
AAF_DECLARE(portable)
#if defined(__x86_64__)
AAF_DECLARE(avx2)
AAF_DECLARE(avx512)
AAF_DECLARE(avx512_vnni)
AAF_DECLARE(amx)
#endif
#undef AAF_DECLARE

namespace {
enum class InstructionSet { portable, avx2, avx512, avx512_vnni, amx };
constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_vnni", "amx"};

// Whether the processor has a matrix unit and the system lets this process use it: a process has to
// ask for the unit's registers, which every thread's state then holds.
bool may_use_amx() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) ||
        (d & (bf16 | tile | int8)) != (bf16 | tile | int8))
        return false;
    constexpr int request_permission = 0x1023, tile_data = 18;  // of the kernel's arch_prctl
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

InstructionSet widest() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return !(__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
                   ? InstructionSet::avx512
               : may_use_amx() ? InstructionSet::amx
                               : InstructionSet::avx512_vnni;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return InstructionSet::avx2;
#endif
    return InstructionSet::portable;
}

// The widest, or a narrower one that ALBERT_ACT_FAST_INSTRUCTION_SET names (to test each of them).
InstructionSet choose() {
    const InstructionSet limit = widest();
    const char* wanted = std::getenv("ALBERT_ACT_FAST_INSTRUCTION_SET");
    if (wanted == nullptr || *wanted == 0) return limit;
    for (int i = 0; i <= int(limit); ++i)
        if (std::strcmp(wanted, kNames[i]) == 0) return InstructionSet(i);
    std::fprintf(stderr,
                 "ALBERT_ACT_FAST_INSTRUCTION_SET: got %s, expected portable, avx2, avx512, "
                 "avx512_vnni or amx, and one that this machine has; using %s.\n",
                 wanted, kNames[int(limit)]);
    return limit;
}

const InstructionSet chosen = choose();
}  // namespace

template <class T>
const Kernels<T>& kernels() {
    switch (chosen) {
#if defined(__x86_64__)
        case InstructionSet::amx:
            return amx::kernels<T>();
        case InstructionSet::avx512_vnni:
            return avx512_vnni::kernels<T>();
        case InstructionSet::avx512:
            return avx512::kernels<T>();
        case InstructionSet::avx2:
            return avx2::kernels<T>();
#endif
        default:
            return portable::kernels<T>();
    }
}
#define AAF_INSTANTIATE(T) template const Kernels<T>& kernels<T>();
AAF_CPU_DTYPES(AAF_INSTANTIATE)
#undef AAF_INSTANTIATE

uint64_t checksum(const void* words, int64_t first, int64_t count) {
    switch (chosen) {
#if defined(__x86_64__)
        case InstructionSet::amx:
        case InstructionSet::avx512_vnni:
        case InstructionSet::avx512:
            return avx512::checksum(words, first, count);
        case InstructionSet::avx2:
            return avx2::checksum(words, first, count);
#endif
        default:
            return portable::checksum(words, first, count);
    }
}

const char* instruction_set() {
    return kNames[int(chosen)];
}

bool multiplies_bfloat16() {
    return chosen >= InstructionSet::avx512_vnni;
}

}  // namespace albert_act_fast::cpu
