#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "check.h"
#include "launch.h"

namespace albert_act_fast::binding {
namespace {

template <class T>
T* data_of(const View& view) {
    AAF_CHECK(view.dtype == kScalarType<std::remove_const_t<T>>,
              "engine: a tensor has another dtype than needed.");
    return static_cast<T*>(view.data);
}

template <class T>
Parameters<T> parameters(const View (&linear)[2]) {
    return {data_of<T>(linear[0]), data_of<T>(linear[1]), linear[0].shape[0], linear[0].shape[1]};
}

// A copy of a small tensor.
template <class T>
std::vector<T> copy_of(const View& view) {
    return {data_of<T>(view), data_of<T>(view) + view.count()};
}

// What moves from one iteration to the next.
template <class T>
struct Running {
    Buffer hidden, accumulated_probability, token_index, query_offsets;
};

// Says where the time goes, and lets signals be looked at now and then: whoever does that needs the
// interpreter for it, which other threads may have.
class Stopwatch {
  public:
    explicit Stopwatch(const std::function<void()>& check_signals)
        : check_signals_(check_signals) {}

    void lap(double& into) {
        const auto now = Clock::now();
        into += std::chrono::duration<double>(now - last_).count();
        last_ = now;
        if (!check_signals_ || now - checked_ < std::chrono::milliseconds(50)) return;
        check_signals_();
        last_ = checked_ = Clock::now();
    }

  private:
    using Clock = std::chrono::steady_clock;
    const std::function<void()>& check_signals_;
    Clock::time_point last_ = Clock::now(), checked_ = last_;
};

// Rows that a wide product takes at a time, if it is the engine's own, before what it gives is
// used: that then stays in cache, and takes little memory.
constexpr int64_t kChunk = 2 * cpu::kRowChunk;

// What a workspace may hold between runs, in bytes. Beyond it making it anew costs little beside a
// run that needs so much: below 1 %.
constexpr size_t kKept = size_t(256) << 20;

template <class T>
struct Workspace {
    Running<T> running[2];
    // attended: what attention gives, then the FFN's input. products: what they give, one after
    // the other.
    Buffer attended, products;
    StoreMemory store;
    std::optional<Tensor> projected, queries, inner, output;  // of oneDNN's products
    QuantizedRows quantized;
    Seconds seconds;

    size_t bytes() const {
        size_t total = attended.bytes() + products.bytes() + store.bytes() +
                       quantized.values.bytes() + quantized.scales.bytes();
        for (const auto& one : running)
            total += one.hidden.bytes() + one.accumulated_probability.bytes() +
                     one.token_index.bytes() + one.query_offsets.bytes();
        return total;
    }

    // At the end of a run. oneDNN makes its results anew each time.
    void shrink() {
        projected = queries = inner = output = std::nullopt;
        if (bytes() <= kKept) return;
        const Seconds kept = seconds;
        *this = Workspace();
        seconds = kept;
    }
};

template <class T>
class EngineOf : public Engine {
  public:
    EngineOf(const Layer& layer, Weights weights, bool library)
        : width_(layer.query[0].shape[0]),
          keys_values_({parameters<T>(layer.key), parameters<T>(layer.value)}, weights, library),
          queries_({parameters<T>(layer.query)}, weights, library),
          dense_({parameters<T>(layer.dense)}, weights, library),
          ffn_({parameters<T>(layer.ffn)}, weights, library),
          ffn_output_({parameters<T>(layer.ffn_output)}, weights, library),
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
        if (layer.distance_embedding.has_value()) {
            distance_embedding_ = copy_of<T>(*layer.distance_embedding);
            distances_ = layer.distance_embedding->shape[0];
        }
    }

    std::vector<int64_t> run(const Run& run) override {
        check(run);
        const std::unique_lock<std::mutex> mine(mutex_, std::try_to_lock);
        Workspace<T> other;
        Workspace<T>& space = mine.owns_lock() ? workspace_ : other;
        const struct Shrink {  // whatever ends the run
            Workspace<T>& space;
            ~Shrink() { space.shrink(); }
        } shrink{space};
        return iterate(run, space);
    }

    size_t packed_bytes() const override {
        return keys_values_.bytes() + queries_.bytes() + dense_.bytes() + ffn_.bytes() +
               ffn_output_.bytes();
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
    void check(const Run& run) const;
    std::vector<int64_t> iterate(const Run& run, Workspace<T>& space);

    // Projects keys and values of the rows that moved into the store, and queries of those that run
    // on, which are the first of them.
    cpu::Matrix<T> project(const cpu::Matrix<T>& moved, int64_t moved_rows, int64_t rows,
                           const int64_t* moved_index, const cpu::KeyValueStore<T>& store,
                           Workspace<T>& space, Stopwatch& watch) const;
    cpu::Matrix<T> feed_forward(const cpu::Matrix<T>& input, int64_t rows, Workspace<T>& space,
                                Stopwatch& watch) const;

    // Of every own product, or of oneDNN's where that takes so many rows.
    cpu::Matrix<T> multiply(const Linear<T>& linear, const cpu::Matrix<T>& x, int64_t rows,
                            Activation activation, T* memory, std::optional<Tensor>& holder,
                            QuantizedRows& quantized) const {
        if (!linear.is_own(rows)) return linear.library(x, rows, activation, holder);
        const cpu::Matrix<T> out{memory, linear.own_stride()};
        linear.own(x, rows, activation, out, quantized);
        return out;
    }

    int64_t width_;
    Linear<T> keys_values_, queries_, dense_, ffn_, ffn_output_;
    std::vector<T> attention_norm_[2], output_norm_[2], halting_[2], distance_embedding_;
    int64_t heads_, distances_ = 0;
    Activation activation_;
    bool key_distances_;
    double attention_eps_, output_eps_;
    mutable std::mutex mutex_;
    Workspace<T> workspace_;
};

template <class T>
cpu::Matrix<T> EngineOf<T>::project(const cpu::Matrix<T>& moved, int64_t moved_rows, int64_t rows,
                                    const int64_t* moved_index, const cpu::KeyValueStore<T>& store,
                                    Workspace<T>& space, Stopwatch& watch) const {
    const auto write = [&](const cpu::Matrix<T>& keys, int64_t first, int64_t count) {
        watch.lap(space.seconds.products);
        write_keys_values<T>({{keys.data, keys.stride},
                              {keys.data + width_, keys.stride},
                              count,
                              moved_index + first,
                              space.store.sequence.template of<int64_t>(0),
                              store});
        watch.lap(space.seconds.attention);
    };
    if (!keys_values_.is_own(moved_rows)) {
        write(keys_values_.library(moved, moved_rows, Activation::none, space.projected), 0,
              moved_rows);
        return queries_.library(moved, rows, Activation::none, space.queries);
    }
    const int64_t count = std::min(moved_rows, kChunk), stride = keys_values_.own_stride();
    T* const memory = space.products.template of<T>(count * stride + rows * queries_.own_stride());
    for (int64_t first = 0; first < moved_rows; first += count) {
        const cpu::Matrix<T> keys{memory, stride};
        const int64_t these = std::min(count, moved_rows - first);
        keys_values_.own({moved.row(first), moved.stride}, these, Activation::none, keys,
                         space.quantized);
        write(keys, first, these);
    }
    const cpu::Matrix<T> queries{memory + count * stride, queries_.own_stride()};
    queries_.own(moved, rows, Activation::none, queries, space.quantized);
    watch.lap(space.seconds.products);
    return queries;
}

template <class T>
cpu::Matrix<T> EngineOf<T>::feed_forward(const cpu::Matrix<T>& input, int64_t rows,
                                         Workspace<T>& space, Stopwatch& watch) const {
    const int64_t stride = ffn_output_.own_stride();
    const bool own = ffn_.is_own(rows) && ffn_output_.is_own(rows);
    // An inner layer of oneDNN's reads as many rows as that rounds up to.
    const int64_t capacity = own ? rows : rounded_up(rows, kScalarType<T>);
    const int64_t inner_rows = own && rows > kChunk ? kChunk : capacity;
    T* const memory =
        space.products.template of<T>(capacity * stride + inner_rows * ffn_.own_stride());
    T* const inner_memory = memory + capacity * stride;
    if (!own) {
        const cpu::Matrix<T> inner =
            multiply(ffn_, input, rows, activation_, inner_memory, space.inner, space.quantized);
        return multiply(ffn_output_, inner, rows, Activation::none, memory, space.output,
                        space.quantized);
    }
    const cpu::Matrix<T> out{memory, stride}, inner{inner_memory, ffn_.own_stride()};
    for (int64_t first = 0; first < rows; first += inner_rows) {
        const int64_t count = std::min(inner_rows, rows - first);
        ffn_.own({input.row(first), input.stride}, count, activation_, inner, space.quantized);
        ffn_output_.own(inner, count, Activation::none, {out.row(first), stride}, space.quantized);
        watch.lap(space.seconds.products);
    }
    return out;
}

template <class T>
void EngineOf<T>::check(const Run& run) const {
    AAF_CHECK(run.max_iterations >= 1, "max_iterations: got ", run.max_iterations,
              ", expected at least 1.");
    AAF_CHECK(!std::isnan(run.threshold), "threshold: got NaN, expected a number.");
    constexpr ScalarType dtype = kScalarType<T>, index = ScalarType::Long,
                         state = ScalarType::Float;
    AAF_CHECK(run.hidden.shape.size() == 2, "hidden: got shape ", text(run.hidden.shape),
              ", expected (tokens, ", width_, ").");
    AAF_CHECK(run.offsets.shape.size() == 1 && run.offsets.shape[0] >= 1, "offsets: got shape ",
              text(run.offsets.shape), ", expected (sequences + 1,).");
    const int64_t tokens = run.hidden.shape[0], sequences = run.offsets.shape[0] - 1;
    expect("hidden", run.hidden, dtype, {tokens, width_});
    expect("offsets", run.offsets, index, {sequences + 1});
    expect("positions", run.positions, index, {tokens});
    expect("out", run.out, dtype, {tokens, width_});
    expect("n_updates", run.n_updates, state, {tokens});
    expect("remainders", run.remainders, state, {tokens});

    const auto* offsets = data_of<const int64_t>(run.offsets);
    AAF_CHECK(offsets[0] == 0, "offsets[0]: got ", offsets[0], ", expected 0.");
    for (int64_t b = 0; b < sequences; ++b)
        AAF_CHECK(offsets[b] <= offsets[b + 1], "offsets[", b + 1, "]: got ", offsets[b + 1],
                  ", expected at least ", offsets[b], ", where the sequence before it begins.");
    AAF_CHECK(offsets[sequences] == tokens, "offsets[", sequences, "]: got ", offsets[sequences],
              ", expected ", tokens, ", the rows of hidden.");
    const auto* positions = data_of<const int64_t>(run.positions);
    for (int64_t b = 0; distances_ > 0 && b < sequences; ++b) {
        if (offsets[b] == offsets[b + 1]) continue;
        const auto [first, last] =
            std::minmax_element(positions + offsets[b], positions + offsets[b + 1]);
        // Unsigned, so that no difference overflows.
        AAF_CHECK(uint64_t(*last) - uint64_t(*first) <= uint64_t(distances_ - 1) / 2,
                  "positions: got ", *first, " to ", *last, " in sequence ", b,
                  ", expected at most ", (distances_ - 1) / 2, " apart, which is what the ",
                  distances_, " rows of distance_embedding reach to.");
    }

    const std::pair<const char*, const View*> all[] = {
        {"out", &run.out},       {"n_updates", &run.n_updates}, {"remainders", &run.remainders},
        {"hidden", &run.hidden}, {"offsets", &run.offsets},     {"positions", &run.positions}};
    const auto begin = [](const View& view) { return reinterpret_cast<uintptr_t>(view.data); };
    const auto end = [&](const View& view) { return begin(view) + size_t(view.bytes()); };
    for (int written = 0; written < 3; ++written)
        for (int other = written + 1; other < 6; ++other) {
            const View &a = *all[written].second, &b = *all[other].second;
            AAF_CHECK(begin(a) >= end(b) || begin(b) >= end(a), all[written].first,
                      ": shares memory with ", all[other].first,
                      ", expected a tensor of its own, which is written to.");
        }
}

template <class T>
std::vector<int64_t> EngineOf<T>::iterate(const Run& run, Workspace<T>& space) {
    Stopwatch watch(run.check_signals);
    space.seconds = {};
    const int64_t tokens = run.hidden.shape[0], sequences = run.offsets.shape[0] - 1;
    const int64_t capacity = rounded_up(tokens, kScalarType<T>);
    const auto* key_offsets = data_of<const int64_t>(run.offsets);
    const auto* positions = data_of<const int64_t>(run.positions);
    const cpu::Matrix<T> attended{space.attended.template of<T>(capacity * width_), width_};
    const cpu::Matrix<T>& ffn_input = attended;
    const auto store = empty_store<T>(space.store, key_offsets, sequences, heads_, width_ / heads_);
    struct Now {
        cpu::Matrix<T> hidden;
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
    memcpy(sets[0].hidden.data, data_of<const T>(run.hidden), size_t(tokens * width_) * sizeof(T));
    for (int64_t t = 0; t < tokens; ++t) {
        sets[0].accumulated_probability[t] = 0;
        sets[0].token_index[t] = t;
    }
    memcpy(sets[0].query_offsets, key_offsets, size_t(sequences + 1) * sizeof(int64_t));

    std::vector<int64_t> running_rows;
    int64_t rows = tokens, moved_rows = tokens;
    watch.lap(space.seconds.other);
    for (int64_t iteration = 1; rows > 0; ++iteration) {
        running_rows.push_back(rows);
        const Now &now = sets[(iteration - 1) % 2], &next = sets[iteration % 2];
        const cpu::Matrix<T> queries =
            project(now.hidden, moved_rows, rows, now.token_index, store, space, watch);
        attend<T>(
            {{queries.data, queries.stride},
             now.query_offsets,
             now.token_index,
             positions,
             store,
             {distance_embedding_.empty() ? nullptr : distance_embedding_.data(), width_ / heads_},
             distances_,
             key_distances_,
             attended},
            sequences);
        watch.lap(space.seconds.attention);
        T* const memory = space.products.template of<T>(rows * dense_.own_stride());
        const cpu::Matrix<T> dense = multiply(dense_, attended, rows, Activation::none, memory,
                                              space.projected, space.quantized);
        watch.lap(space.seconds.products);
        const cpu::AddLayerNorm<T> add{
            {dense.data, dense.stride},
            {now.hidden.data, now.hidden.stride},
            {attention_norm_[0].data(), attention_norm_[1].data(), attention_eps_},
            ffn_input,
            width_};
        for_rows(rows, [&](int64_t begin, int64_t end) {
            cpu::kernels<T>().add_layer_norm(add, begin, end);
        });
        watch.lap(space.seconds.other);
        const cpu::Matrix<T> output = feed_forward(ffn_input, rows, space, watch);
        watch.lap(space.seconds.products);
        halt<T>({{output.data, output.stride},
                 {ffn_input.data, ffn_input.stride},
                 {now.hidden.data, now.hidden.stride},
                 {output_norm_[0].data(), output_norm_[1].data(), output_eps_},
                 halting_[0].data(),
                 load(halting_[1][0]),
                 float(run.threshold),
                 iteration,
                 iteration == run.max_iterations,
                 now.accumulated_probability,
                 now.token_index,
                 now.query_offsets,
                 sequences,
                 width_,
                 next.hidden,
                 next.accumulated_probability,
                 next.token_index,
                 next.query_offsets,
                 {data_of<T>(run.out), width_},
                 data_of<float>(run.n_updates),
                 data_of<float>(run.remainders),
                 nullptr,
                 nullptr,
                 nullptr});
        watch.lap(space.seconds.other);
        moved_rows = rows;
        rows = next.query_offsets[sequences];
    }
    return running_rows;
}

}  // namespace

const char* text(ScalarType dtype) {
    switch (dtype) {
        case ScalarType::Float:
            return "float32";
        case ScalarType::BFloat16:
            return "bfloat16";
        case ScalarType::Long:
            return "int64";
        case ScalarType::Double:
            return "float64";
        case ScalarType::Half:
            return "float16";
        case ScalarType::Int:
            return "int32";
        default:
            return toString(dtype);
    }
}

void expect(const std::string& name, const View& view, ScalarType dtype,
            const std::vector<int64_t>& shape) {
    AAF_CHECK(view.dtype == dtype, name, ": got ", text(view.dtype), ", expected ", text(dtype),
              ".");
    AAF_CHECK(view.shape == shape, name, ": got shape ", text(view.shape), ", expected ",
              text(shape), ".");
}

std::unique_ptr<Engine> make_engine(const Layer& layer, Weights weights, bool library) {
    if (layer.query[0].dtype == ScalarType::Float)
        return std::make_unique<EngineOf<float>>(layer, weights, library);
    return std::make_unique<EngineOf<BFloat16>>(layer, weights, library);
}

}  // namespace albert_act_fast::binding
