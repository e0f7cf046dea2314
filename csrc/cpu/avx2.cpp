// The kernels for avx2.
#include <cstddef>

#include "kernels.h"

#pragma GCC target("avx2,fma,f16c")
#define AAF_NAMESPACE avx2
#define AAF_ROWS_AT_ONCE 3
#include "instantiate.h"
