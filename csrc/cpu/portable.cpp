// The kernels for portable.
#include <cstddef>

#include "../semantics/halting.h"
#include "kernels.h"

#define AAF_NAMESPACE portable
#include "instantiate.h"
