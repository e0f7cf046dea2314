// The kernels for portable.
#include <cstddef>

#include "kernels.h"

#define AAF_NAMESPACE portable
#include "instantiate.h"
