// The `checksum.cpp` operator that albert_act_fast/ops/contracts.py defines.
#include <atomic>
#include <cstring>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/check.h"
#include "../common/dtypes.h"
#include "../cpu/kernels.h"

namespace albert_act_fast::binding {
namespace {

// int64 [tensors]: of each contiguous tensor a checksum of all its bytes.
Tensor checksum(std::vector<Tensor> tensors) {
    AAF_CHECK(!tensors.empty(), "checksum: got no tensor, expected at least one.");
    Tensor result =
        torch::stable::new_empty(tensors[0], {int64_t(tensors.size())}, ScalarType::Long);
    for (size_t i = 0; i < tensors.size(); ++i) {
        AAF_CHECK(tensors[i].is_contiguous() && tensors[i].is_cpu(),
                  "checksum: expected contiguous CPU tensors.");
        const auto* data = static_cast<const unsigned char*>(tensors[i].data_ptr());
        const int64_t bytes = tensors[i].numel() * int64_t(tensors[i].element_size());
        std::atomic<uint64_t> sum{uint64_t(bytes)};
        torch::stable::parallel_for(0, bytes / 8, 1 << 16, [&](int64_t begin, int64_t end) {
            sum += cpu::checksum(data + 8 * begin, begin, end - begin);
        });
        if (bytes % 8 != 0) {
            uint64_t tail = 0;
            memcpy(&tail, data + bytes / 8 * 8, size_t(bytes % 8));
            sum += cpu::checksum(&tail, bytes / 8, 1);
        }
        static_cast<int64_t*>(result.data_ptr())[i] = int64_t(sum.load());
    }
    return result;
}

}  // namespace
}  // namespace albert_act_fast::binding

STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, CPU, m) {
    m.impl("checksum.cpp", TORCH_BOX(&albert_act_fast::binding::checksum));
}
