// The kernels for avx2.
#include <immintrin.h>

#include <cstddef>

#include "kernels.h"

#pragma GCC target("avx2,fma,f16c")
#define AAF_NAMESPACE avx2
#define AAF_REGISTER_BYTES 32
#define AAF_AVX2
#include "instantiate.h"
