// The `cuda` overloads of the operators. They only launch: nothing is allocated, and no value of a
// tensor is read or waited for, so that they can be captured in a CUDA graph. What indices point to
// is therefore not checked.
//
// Not yet run on a GPU. Tests run the same code on CPU tensors, where the dispatch key says so.
#include "../cuda/kernels.h"

#include <torch/csrc/stable/accelerator.h>

#include "operators.h"

#if !defined(AAF_CUDA_DISPATCH_KEY)
#define AAF_CUDA_DISPATCH_KEY CUDA
#endif

// Of torch's stable C interface, in its CUDA builds alone; null in all others, where no tensor is
// on a CUDA device either.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace albert_act_fast::binding {
namespace {

// Makes the rows' device the current one, and knows its current stream.
class Device {
  public:
    explicit Device(const Tensor& rows) {
        if (rows.is_cpu()) return;
        guard_.emplace(rows.get_device_index());
        AAF_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "this build of torch knows no CUDA streams.");
        STABLE_TORCH_ERROR_CODE_CHECK(
            aoti_torch_get_current_cuda_stream(rows.get_device_index(), &stream_));
    }

    void* stream() const { return stream_; }

  private:
    std::optional<torch::stable::accelerator::DeviceGuard> guard_;
    void* stream_ = nullptr;
};

struct Cuda {
    static constexpr bool kReadsValues = false;

    template <class F>
    static void for_dtype(const char* op, const Tensor& rows, const F& f) {
        switch (rows.scalar_type()) {
            AAF_CUDA_DTYPES(AAF_CALL_WITH)
            default:
                refuse(op, ": expected ", any_of({AAF_CUDA_DTYPES(AAF_SCALAR_TYPE)}), " rows.");
        }
    }

    template <class Args>
    static void run(const char* op, const Args& args, const Tensor& rows) {
        check_limits(op, args);
        AAF_CHECK(args.rows <= INT32_MAX, op, ": got ", args.rows, " rows, expected at most ",
                  INT32_MAX, ".");
        const Device device(rows);
        const char* error = cuda::run(args, device.stream());
        AAF_CHECK(error == nullptr, op, ": the kernel was not launched: ", error);
    }

  private:
    template <class Args>
    static void check_limits(const char* op, const Args& args) {
        AAF_CHECK(args.width <= cuda::kMaxWidth, op, ": rows have ", args.width,
                  " columns, expected at most ", cuda::kMaxWidth, ".");
    }
    static void check_limits(const char*, const ScatterRows&) {}
    template <class T>
    static void check_limits(const char* op, const RaggedAttention<T>& args) {
        AAF_CHECK(args.head_size <= cuda::kMaxHeadSize, op, ": a head has ", args.head_size,
                  " columns, expected at most ", cuda::kMaxHeadSize, ".");
        AAF_CHECK(args.heads <= UINT16_MAX, op, ": got ", args.heads, " heads, expected at most ",
                  UINT16_MAX, ".");
    }
};

}  // namespace
}  // namespace albert_act_fast::binding

STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, AAF_CUDA_DISPATCH_KEY, m) {
    using namespace albert_act_fast::binding;
    Operators<Cuda>::implement(m, "cuda");
}
