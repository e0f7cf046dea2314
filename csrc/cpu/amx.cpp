// The kernels for AVX-512 with a matrix unit (AMX), which products and bfloat16 attention use.
#include <immintrin.h>

#include <cstddef>

#include "kernels.h"

#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,amx-tile,amx-int8,amx-bf16,avx2,fma,f16c,prefer-vector-width=512")
#define AAF_NAMESPACE amx
#define AAF_REGISTER_BYTES 64
#define AAF_AVX512
#define AAF_DOT_INSTRUCTIONS
#define AAF_TILES
#include "instantiate.h"
