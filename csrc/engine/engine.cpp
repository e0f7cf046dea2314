#include "engine.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../common/check.h"
#include "early_ends.h"
#include "launch.h"
#include "stopwatch.h"
#include "workspace.h"

namespace albert_act_fast::engine {
namespace {

// Rows that a wide product by kernels takes at a time before what it gives is used: that then stays
// in cache, and takes little memory.
constexpr int64_t kChunk = 2 * cpu::kRowChunk;

// A: what attention is computed in, queries, keys and values with it, and what stands between the
// two products of the feed-forward block.
template <class T, class A = T>
class EngineOf : public Engine {
  public:
    EngineOf(const Layer& layer, Weights weights, bool onednn)
        : width_(layer.query[0].shape[0]),
          keys_values_({parameters<T>(layer.key), parameters<T>(layer.value)}, weights, onednn),
          queries_({parameters<T>(layer.query)}, weights, onednn),
          dense_({parameters<T>(layer.dense)}, weights, onednn),
          ffn_({parameters<T>(layer.ffn)}, weights, onednn),
          ffn_output_({parameters<T>(layer.ffn_output)}, weights, onednn),
          hidden_width_(layer.mapping.has_value() ? (*layer.mapping)[0].shape[1] : width_),
          heads_(layer.heads),
          activation_(layer.activation),
          key_distances_(layer.key_distances),
          attention_eps_(layer.attention_eps),
          output_eps_(layer.output_eps) {
        for (int i = 0; i < 2; ++i) {
            attention_norm_[i] = copy_of<T>(layer.attention_norm[i]);
            output_norm_[i] = copy_of<T>(layer.output_norm[i]);
            halting_[i] = copy_of<T>(layer.halting[i]);
        }
        if (layer.mapping.has_value()) {
            const auto& [weight, bias] = *layer.mapping;
            mapping_ = std::make_unique<Linear<T>>(
                std::vector<Parameters<T>>{
                    {data_of<T>(weight), data_of<T>(bias), width_, hidden_width_}},
                Weights::as_given, false);
        }
        if (layer.distance_embedding.has_value()) {
            for (const T x : copy_of<T>(*layer.distance_embedding)) {
                distance_embedding_.emplace_back();
                store(load(x), &distance_embedding_.back());
            }
            distances_ = layer.distance_embedding->shape[0];
        }
    }

    std::vector<int64_t> run(const Run& run) override {
        const Sharing sharing;
        const std::unique_lock<std::mutex> mine(mutex_, std::try_to_lock);
        Workspace<T> other;
        Workspace<T>& space = mine.owns_lock() ? workspace_ : other;
        const struct Shrink {  // whatever ends the run
            Workspace<T>& space;
            ~Shrink() { space.shrink(); }
        } shrink{space};
        return iterate(run, space);
    }

    ScalarType dtype() const override { return kScalarType<T>; }
    int64_t width() const override { return width_; }
    bool has_mapping() const override { return mapping_ != nullptr; }
    int64_t hidden_width() const override { return hidden_width_; }
    int64_t distances() const override { return distances_; }

    bool is_batch_invariant() const override {
        for (const auto* product : {&keys_values_, &queries_, &dense_, &ffn_, &ffn_output_})
            if (!product->is_always_by_kernels()) return false;
        return true;
    }

    size_t packed_bytes() const override {
        return keys_values_.bytes() + queries_.bytes() + dense_.bytes() + ffn_.bytes() +
               ffn_output_.bytes() + (mapping_ == nullptr ? 0 : mapping_->bytes());
    }

    size_t workspace_bytes() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return workspace_.bytes();
    }

    Seconds seconds() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return workspace_.seconds;
    }

  private:
    std::vector<int64_t> iterate(const Run& run, Workspace<T>& space);

    LayerNorm<T> norm(const std::vector<T> (&parameters)[2], double eps) const {
        return {parameters[0].data(), parameters[1].data(), Arithmetic<T>(eps)};
    }

    // Projects keys and values of the rows that moved into the store, and queries of those that run
    // on, which are the first of them. bytes: the same rows quantised, or null; so below.
    Matrix<A> project(const Matrix<T>& moved, const cpu::Quantize<T>* bytes, int64_t moved_rows,
                      int64_t rows, const int64_t* moved_index, const cpu::KeyValueStore<A>& store,
                      Workspace<T>& space, Stopwatch& watch) const;
    Matrix<T> feed_forward(const Matrix<T>& input, const cpu::Quantize<T>* bytes, int64_t rows,
                           Workspace<T>& space, Stopwatch& watch) const;

    // By whichever takes so many rows: kernels write to `memory`, oneDNN to what `holder` keeps.
    template <class In>
    Matrix<T> multiply(const Linear<T>& linear, const Matrix<In>& x, int64_t rows,
                       Activation activation, T* memory, std::optional<Tensor>& holder,
                       QuantizedRows& quantized) const {
        if constexpr (std::is_same_v<In, T>)
            if (!linear.is_by_kernels(rows)) return linear.by_onednn(x, rows, activation, holder);
        const Matrix<T> out{memory, linear.kernel_stride()};
        linear.by_kernels(x, rows, activation, out, quantized);
        return out;
    }

    int64_t width_;
    Linear<T> keys_values_, queries_, dense_, ffn_, ffn_output_;
    int64_t hidden_width_;
    // Never quantised, and always by the kernels: a hundredth of a run, and a library's sums would
    // depend on how many rows there are.
    std::unique_ptr<Linear<T>> mapping_;
    std::vector<T> attention_norm_[2], output_norm_[2], halting_[2];
    std::vector<A> distance_embedding_;
    int64_t heads_, distances_ = 0;
    Activation activation_;
    bool key_distances_;
    double attention_eps_, output_eps_;
    mutable std::mutex mutex_;
    Workspace<T> workspace_;
};

template <class T, class A>
Matrix<A> EngineOf<T, A>::project(const Matrix<T>& moved, const cpu::Quantize<T>* bytes,
                                  int64_t moved_rows, int64_t rows, const int64_t* moved_index,
                                  const cpu::KeyValueStore<A>& store, Workspace<T>& space,
                                  Stopwatch& watch) const {
    const auto write = [&](const Matrix<A>& keys, int64_t first, int64_t count) {
        watch.lap(space.seconds.products);
        cpu::WriteKeysValues<A> args;
        args.keys = {keys.data, keys.stride};
        args.values = {keys.data + width_, keys.stride};
        args.rows = count;
        args.token_index = moved_index + first;
        args.sequence = space.store.sequence.template of<int64_t>(0);
        args.store = store;
        launch(args);
        watch.lap(space.seconds.attention);
    };
    if constexpr (std::is_same_v<A, T>)
        if (!keys_values_.is_by_kernels(moved_rows)) {
            write(keys_values_.by_onednn(moved, moved_rows, Activation::none, space.projected), 0,
                  moved_rows);
            return queries_.by_onednn(moved, rows, Activation::none, space.queries);
        }
    const int64_t count = std::min(moved_rows, kChunk), stride = keys_values_.kernel_stride();
    A* const memory =
        space.products.template of<A>(count * stride + rows * queries_.kernel_stride());
    const Matrix<A> queries{memory + count * stride, queries_.kernel_stride()};
    const PreparedRows all = bytes != nullptr
                                 ? PreparedRows::of(*bytes)
                                 : keys_values_.prepare(moved, moved_rows, space.input);
    for (int64_t first = 0; first < moved_rows; first += count) {
        const Matrix<A> keys{memory, stride};
        const int64_t these = std::min(count, moved_rows - first);
        const int64_t running = std::clamp<int64_t>(rows - first, 0, these);
        keys_values_.multiply(all.from(first), these, Activation::none, keys);
        write(keys, first, these);
        if (running == 0) continue;
        queries_.multiply(all.from(first), running, Activation::none,
                          Matrix<A>{queries.row(first), queries.stride});
        watch.lap(space.seconds.products);
    }
    return queries;
}

template <class T, class A>
Matrix<T> EngineOf<T, A>::feed_forward(const Matrix<T>& input, const cpu::Quantize<T>* bytes,
                                       int64_t rows, Workspace<T>& space, Stopwatch& watch) const {
    const int64_t stride = ffn_output_.kernel_stride();
    const bool by_kernels = ffn_.is_by_kernels(rows) && ffn_output_.is_by_kernels(rows);
    // An inner layer of oneDNN's reads as many rows as that rounds up to.
    const int64_t capacity = by_kernels ? rows : onednn_rows(rows, kScalarType<T>);
    const int64_t inner_rows = by_kernels && rows > kChunk ? kChunk : capacity;
    T* const memory =
        space.products.template of<T>(capacity * stride + inner_rows * ffn_.kernel_stride());
    T* const inner_memory = memory + capacity * stride;
    if constexpr (std::is_same_v<A, T>)
        if (!by_kernels) {
            const Matrix<T> inner = multiply(ffn_, input, rows, activation_, inner_memory,
                                             space.inner, space.quantized);
            return multiply(ffn_output_, inner, rows, Activation::none, memory, space.output,
                            space.quantized);
        }
    const Matrix<T> out{memory, stride};
    const Matrix<A> inner{reinterpret_cast<A*>(inner_memory), ffn_.kernel_stride()};
    const PreparedRows all =
        bytes != nullptr ? PreparedRows::of(*bytes) : ffn_.prepare(input, rows, space.input);
    for (int64_t first = 0; first < rows; first += inner_rows) {
        const int64_t count = std::min(inner_rows, rows - first);
        ffn_.multiply(all.from(first), count, activation_, inner);
        ffn_output_.by_kernels(inner, count, Activation::none, Matrix<T>{out.row(first), stride},
                               space.quantized);
        watch.lap(space.seconds.products);
    }
    return out;
}

template <class T, class A>
std::vector<int64_t> EngineOf<T, A>::iterate(const Run& run, Workspace<T>& space) {
    Stopwatch watch(run.check_signals);
    space.seconds = {};
    const int64_t tokens = run.hidden.shape[0], sequences = run.offsets.shape[0] - 1;
    const int64_t capacity = onednn_rows(tokens, kScalarType<T>);
    const auto* key_offsets = data_of<const int64_t>(run.offsets);
    // One is read for the last time before the other is written.
    const Matrix<T> ffn_input{space.attended.template of<T>(capacity * width_), width_};
    const Matrix<A> attended{reinterpret_cast<A*>(ffn_input.data), width_};
    const auto store = empty_store<A>(space.store, key_offsets, sequences, heads_, width_ / heads_);
    struct Now {
        Matrix<T> hidden;
        float* accumulated_probability;
        int64_t *token_index, *query_offsets;
    };
    Now sets[2];
    for (int i = 0; i < 2; ++i) {
        Running<T>& set = space.running[i];
        sets[i] = {{set.hidden.template of<T>(capacity * width_), width_},
                   set.accumulated_probability.template of<float>(tokens),
                   set.token_index.template of<int64_t>(tokens),
                   set.query_offsets.template of<int64_t>(sequences + 1)};
    }
    for (int64_t t = 0; t < tokens; ++t) {
        sets[0].accumulated_probability[t] = 0;
        sets[0].token_index[t] = t;
    }
    memcpy(sets[0].query_offsets, key_offsets, size_t(sequences + 1) * sizeof(int64_t));
    const Matrix<T> given{data_of<T>(run.hidden), hidden_width_};
    Now first = sets[0];
    if (mapping_ != nullptr) {
        watch.lap(space.seconds.other);
        mapping_->by_kernels(given, tokens, Activation::none, first.hidden, space.quantized);
        watch.lap(space.seconds.products);
    } else if (keys_values_.is_by_kernels(tokens)) {
        first.hidden = given;  // which nothing writes to
    } else {                   // oneDNN's products read more rows than there are
        memcpy(first.hidden.data, given.data, size_t(tokens * width_) * sizeof(T));
    }

    RaggedAttention<A> attention;
    attention.positions = data_of<const int64_t>(run.positions);
    attention.key_offsets = key_offsets;
    attention.sequences = sequences;
    attention.heads = heads_;
    attention.head_size = width_ / heads_;
    if (distances_ > 0)
        attention.distance_embedding = {distance_embedding_.data(), attention.head_size};
    attention.distances = distances_;
    attention.key_distances = key_distances_;
    attention.out = attended;

    AddLayerNorm<T> add;
    add.norm = norm(attention_norm_, attention_eps_);
    add.out = ffn_input;
    add.width = width_;

    HaltingStep<T> halting;
    halting.ffn_input = {ffn_input.data, ffn_input.stride};
    halting.norm = norm(output_norm_, output_eps_);
    halting.halting_weight = halting_[0].data();
    halting.halting_bias = halting_[1].data();
    halting.limits = run.limits;
    halting.sequences = sequences;
    halting.width = width_;
    halting.workspace = space.halting.template of<uint64_t>(kHaltingWorkspaceHeader + tokens);
    halting.out = {data_of<T>(run.out), width_};
    halting.n_updates = data_of<float>(run.n_updates);
    halting.remainders = data_of<float>(run.remainders);

    EarlyEnds<T> early_ends;
    std::vector<int64_t> running_rows;
    // Of int8 what rounds rows to what products read, else null.
    cpu::Quantize<T> quantize;
    const auto in_bytes = [&](const Matrix<T>& x) -> const cpu::Quantize<T>* {
        if (!queries_.is_int8()) return nullptr;
        quantize = queries_.quantizing(x, tokens, space.input);
        return &quantize;
    };
    if (const auto* bytes = in_bytes(first.hidden)) launch(*bytes, tokens);
    int64_t rows = tokens, moved_rows = tokens;
    watch.lap(space.seconds.other);
    for (int64_t iteration = 1; rows > 0; ++iteration) {
        running_rows.push_back(rows);
        const Now& now = iteration == 1 ? first : sets[(iteration - 1) % 2];
        const Now& next = sets[iteration % 2];
        const Matrix<A> queries = project(now.hidden, in_bytes(now.hidden), moved_rows, rows,
                                          now.token_index, store, space, watch);
        attention.queries = {queries.data, queries.stride};
        attention.query_offsets = now.query_offsets;
        attention.token_index = now.token_index;
        attention.rows = rows;
        launch(attention, store);
        watch.lap(space.seconds.attention);

        T* const memory = space.products.template of<T>(rows * dense_.kernel_stride());
        const Matrix<T> dense = multiply(dense_, attended, rows, Activation::none, memory,
                                         space.projected, space.quantized);
        watch.lap(space.seconds.products);
        add.x = {dense.data, dense.stride};
        add.residual = {now.hidden.data, now.hidden.stride};
        add.rows = rows;
        const auto* ffn_bytes = in_bytes(ffn_input);
        launch(add, ffn_bytes);
        watch.lap(space.seconds.other);

        const Matrix<T> output = feed_forward(ffn_input, ffn_bytes, rows, space, watch);
        watch.lap(space.seconds.products);
        halting.ffn_output = {output.data, output.stride};
        halting.hidden = {now.hidden.data, now.hidden.stride};
        halting.iteration = iteration;
        halting.last = iteration == run.max_iterations;
        halting.accumulated_probability = now.accumulated_probability;
        halting.token_index = now.token_index;
        halting.query_offsets = now.query_offsets;
        halting.rows = rows;
        halting.next_hidden = next.hidden;
        halting.next_accumulated_probability = next.accumulated_probability;
        halting.next_token_index = next.token_index;
        halting.next_query_offsets = next.query_offsets;
        launch(halting, halting.last ? nullptr : in_bytes(next.hidden));
        Sharing::computed(rows);
        moved_rows = rows;
        rows = next.query_offsets[sequences];
        if (run.by_sequence && rows > 0) early_ends.look(halting);
        watch.lap(space.seconds.other);
    }
    early_ends.put_back(halting);
    return running_rows;
}

}  // namespace

std::unique_ptr<Engine> make_engine(const Layer& layer, Weights weights, bool onednn) {
    // Rounding to bfloat16 what is rounded to int8 next, or queries, keys and values, is little
    // beside that.
    if (weights == Weights::int8 && layer.query[0].dtype == kScalarType<float> &&
        cpu::multiplies_bfloat16())
        return std::make_unique<EngineOf<float, BFloat16>>(layer, weights, onednn);
#define AAF_MAKE(T)                             \
    if (layer.query[0].dtype == kScalarType<T>) \
        return std::make_unique<EngineOf<T>>(layer, weights, onednn);
    AAF_ENGINE_DTYPES(AAF_MAKE)
#undef AAF_MAKE
    refuse("layer.query weight: got ", text(layer.query[0].dtype), ", expected ",
           any_of({AAF_ENGINE_DTYPES(AAF_SCALAR_TYPE)}), ".");
}

}  // namespace albert_act_fast::engine
