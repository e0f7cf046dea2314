// The `cpp` overloads of the operators.
#include <numeric>

#include "../engine/launch.h"
#include "operators.h"

namespace albert_act_fast::binding {
namespace {

struct Cpu {
    static constexpr bool kReadsValues = true;

    template <class F>
    static void for_dtype(const char* op, const Tensor& rows, const F& f) {
        switch (rows.scalar_type()) {
            AAF_CPU_DTYPES(AAF_CALL_WITH)
            default:
                refuse(op, ": expected ", any_of({AAF_CPU_DTYPES(AAF_SCALAR_TYPE)}), " rows.");
        }
    }

    template <class Args>
    static void run(const char*, const Args& args, const Tensor&) {
        engine::launch(args);
    }
    // The engine's own store of keys and values, for this call.
    template <class T>
    static void run(const char*, const RaggedAttention<T>& args, const Tensor&) {
        engine::StoreMemory memory;
        cpu::WriteKeysValues<T> write;
        write.keys = args.key_store;
        write.values = args.value_store;
        write.rows = args.key_offsets[args.sequences];
        std::vector<int64_t> in_order(size_t(write.rows));
        std::iota(in_order.begin(), in_order.end(), 0);
        write.token_index = in_order.data();
        write.store = engine::empty_store<T>(memory, args.key_offsets, args.sequences, args.heads,
                                             args.head_size);
        write.sequence = memory.sequence.of<int64_t>(0);
        engine::launch(write);
        engine::launch(args, write.store);
    }
};

}  // namespace
}  // namespace albert_act_fast::binding

STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, CPU, m) {
    using namespace albert_act_fast::binding;
    Operators<Cpu>::implement(m, "cpp");
}
