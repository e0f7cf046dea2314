#include "encoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <utility>

#include "launch.h"

namespace albert_act_fast::engine {
namespace {

// What the memory of a call may hold between calls, in bytes, beside the engine's.
constexpr size_t kKept = size_t(64) << 20;

struct Workspace {
    Buffer ids, types, positions, embedded, states, first, pooled;
    QuantizedRows quantized;
    double products = 0;  // seconds

    size_t bytes() const {
        size_t total = quantized.bytes();
        for (const auto* one : {&ids, &types, &positions, &embedded, &states, &first, &pooled})
            total += one->bytes();
        return total;
    }
};

// Adds the seconds that f takes.
template <class F>
void timed(double& seconds, const F& f) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    f();
    seconds += std::chrono::duration<double>(Clock::now() - start).count();
}

template <class T>
bool all_finite(const T* x, int64_t count) {
    float poison = 0;  // NaN where one is not
#pragma omp simd reduction(+ : poison)
    for (int64_t i = 0; i < count; ++i) poison += float(load(x[i])) * 0.0f;
    return poison == 0;
}

template <class T>
class EncoderOf : public Encoder {
  public:
    EncoderOf(std::shared_ptr<Engine> engine, const Embeddings& embeddings)
        : engine_(std::move(engine)),
          width_(engine_->width()),
          embedding_width_(engine_->hidden_width()),
          vocabulary_(embeddings.word.size(0)),
          max_tokens_(embeddings.max_tokens),
          word_(embeddings.word),
          token_type_(embeddings.token_type),
          position_(embeddings.position),
          eps_(embeddings.eps) {
        for (int i = 0; i < 2; ++i) norm_[i] = copy_of<T>(embeddings.norm[i]);
        if (!embeddings.pooler.has_value()) return;
        const auto& [weight, bias] = *embeddings.pooler;
        pooler_ = std::make_unique<Linear<T>>(
            std::vector<Parameters<T>>{{data_of<T>(weight), data_of<T>(bias), width_, width_}},
            Weights::as_given, true);
    }

    Encoded run(const Encode& call) override {
        const Sharing sharing;
        const std::unique_lock<std::mutex> mine(mutex_, std::try_to_lock);
        Workspace other;
        Workspace& space = mine.owns_lock() ? workspace_ : other;
        const struct Shrink {  // whatever ends the call
            Workspace& space;
            ~Shrink() {
                if (space.bytes() <= kKept) return;
                const double products = space.products;
                space = Workspace();
                space.products = products;
            }
        } shrink{space};
        return encode(call, space);
    }

    ScalarType dtype() const override { return kScalarType<T>; }
    int64_t width() const override { return width_; }
    int64_t vocabulary() const override { return vocabulary_; }
    int64_t max_tokens() const override { return max_tokens_; }
    bool has_pooler() const override { return pooler_ != nullptr; }

    size_t workspace_bytes() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return workspace_.bytes();
    }

    Seconds seconds() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        Seconds all = engine_->seconds();
        all.products += workspace_.products;
        return all;
    }

  private:
    Encoded encode(const Encode& call, Workspace& space) const;
    Matrix<T> embed(const Encode& call, Workspace& space) const;
    void pool(const Encode& call, const Matrix<T>& states, Workspace& space) const;

    Matrix<const T> table(const Tensor& tensor) const {
        return {static_cast<const T*>(tensor.data_ptr()), embedding_width_};
    }

    std::shared_ptr<Engine> engine_;
    int64_t width_, embedding_width_, vocabulary_, max_tokens_;
    Tensor word_, token_type_;
    std::optional<Tensor> position_;
    std::vector<T> norm_[2];
    double eps_;
    std::unique_ptr<Linear<T>> pooler_;
    mutable std::mutex mutex_;
    Workspace workspace_;
};

template <class T>
Encoded EncoderOf<T>::encode(const Encode& call, Workspace& space) const {
    const int64_t tokens = call.ids.shape[0];
    const Matrix<T> embedded = embed(call, space);
    space.products = 0;
    const bool all = call.pooling == Pooling::none;
    const Matrix<T> states{
        all ? data_of<T>(call.out) : space.states.template of<T>(tokens * width_), width_};
    const auto view = [&](void* data, ScalarType dtype, std::vector<int64_t> shape) {
        return View{data, dtype, std::move(shape)};
    };
    Run run{view(embedded.data, dtype(), {tokens, embedding_width_}),
            call.offsets,
            view(space.positions.template of<int64_t>(tokens), ScalarType::Long, {tokens}),
            call.limits,
            call.max_iterations,
            view(states.data, dtype(), {tokens, width_}),
            call.n_updates,
            call.remainders,
            true,
            call.check_signals};
    std::vector<int64_t> rows = engine_->run(run);
    if (all) return {std::move(rows), all_finite(states.data, tokens * width_)};
    pool(call, states, space);
    return {std::move(rows),
            all_finite(data_of<const float>(call.out), call.out.shape[0] * width_)};
}

template <class T>
Matrix<T> EncoderOf<T>::embed(const Encode& call, Workspace& space) const {
    const int64_t tokens = call.ids.shape[0], sequences = call.offsets.shape[0] - 1;
    const int64_t* offsets = data_of<const int64_t>(call.offsets);
    int64_t* const ids = space.ids.of<int64_t>(tokens);
    int64_t* const positions = space.positions.of<int64_t>(tokens);
    if (call.ids.dtype == ScalarType::Long)
        std::copy_n(static_cast<const int64_t*>(call.ids.data), tokens, ids);
    else
        std::copy_n(static_cast<const int32_t*>(call.ids.data), tokens, ids);
    for (int64_t b = 0; b < sequences; ++b)
        for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t) positions[t] = t - offsets[b];

    EmbedTokens<T> args;
    args.token_ids = ids;
    args.token_type_ids = space.types.of<int64_t>(tokens);  // zeros, which nobody writes to
    args.position_ids = positions;
    args.word = table(word_);
    args.token_type = table(token_type_);
    if (position_.has_value()) args.position = table(*position_);
    args.norm = {norm_[0].data(), norm_[1].data(), Arithmetic<T>(eps_)};
    args.out = {space.embedded.of<T>(tokens * embedding_width_), embedding_width_};
    args.rows = tokens;
    args.width = embedding_width_;
    launch(args);
    return args.out;
}

template <class T>
void EncoderOf<T>::pool(const Encode& call, const Matrix<T>& states, Workspace& space) const {
    const int64_t sequences = call.offsets.shape[0] - 1;
    const int64_t* offsets = data_of<const int64_t>(call.offsets);
    float* const out = data_of<float>(call.out);
    const auto for_sequences = [&](const auto& f) {
        parallel_for(0, sequences, 1, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b) f(b, out + b * width_);
        });
    };
    if (call.pooling != Pooling::pooler) {
        const bool mean = call.pooling == Pooling::mean;
        for_sequences([&](int64_t b, float* row) {
            const int64_t first = offsets[b], stop = mean ? offsets[b + 1] : first + 1;
            for (int64_t i = 0; i < width_; ++i) row[i] = load(states.row(first)[i]);
            for (int64_t t = first + 1; t < stop; ++t)
                for (int64_t i = 0; i < width_; ++i) row[i] += load(states.row(t)[i]);
            for (int64_t i = 0; i < width_; ++i) row[i] /= float(stop - first);
        });
        return;
    }
    const Matrix<T> first{space.first.of<T>(sequences * width_), width_};
    for (int64_t b = 0; b < sequences; ++b)
        memcpy(first.row(b), states.row(offsets[b]), size_t(width_) * sizeof(T));
    const int64_t columns = pooler_->kernel_stride();
    const Matrix<T> pooled{space.pooled.of<T>(sequences * columns), columns};
    timed(space.products, [&] {
        pooler_->by_kernels(first, sequences, Activation::none, pooled, space.quantized);
    });
    for_sequences([&](int64_t b, float* row) {
        for (int64_t i = 0; i < width_; ++i) {
            T rounded;  // as the model's own output is
            store(std::tanh(float(load(pooled.row(b)[i]))), &rounded);
            row[i] = load(rounded);
        }
    });
}

}  // namespace

std::unique_ptr<Encoder> make_encoder(std::shared_ptr<Engine> engine,
                                      const Embeddings& embeddings) {
#define AAF_MAKE(T)                        \
    if (engine->dtype() == kScalarType<T>) \
        return std::make_unique<EncoderOf<T>>(std::move(engine), embeddings);
    AAF_ENGINE_DTYPES(AAF_MAKE)
#undef AAF_MAKE
    refuse("engine: got ", text(engine->dtype()), ", expected ",
           any_of({AAF_ENGINE_DTYPES(AAF_SCALAR_TYPE)}), ".");
}

}  // namespace albert_act_fast::engine
