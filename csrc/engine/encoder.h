// From token ids to rows in one call: embeddings, an engine's mapping of them and iterations,
// pooling.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine.h"

namespace albert_act_fast::engine {

// What an encoder is made of beside its engine, which has the mapping, and whose dtype all of it
// has. The tables are kept, not copied.
struct Embeddings {
    Tensor word, token_type;         // [rows, E]
    std::optional<Tensor> position;  // [rows, E]; none where positions are relative
    View norm[2];
    double eps;
    std::optional<std::array<View, 2>> pooler;  // weight and bias
    int64_t max_tokens;                         // of a sequence
};

// What becomes of a sequence's states: all of them are handed out in the engine's dtype; or one row
// a sequence in float32, their mean, that of the first token, or what the pooler makes of that.
enum class Pooling { none, mean, cls, pooler };

// One call's arguments. ids [T] int64 or int32; offsets [B + 1] int64; out [T, H] in the engine's
// dtype or [B, H] float32, as `pooling` says; n_updates, remainders [T] float32.
struct Encode {
    View ids, offsets;
    HaltingLimits<float> limits;
    int64_t max_iterations;
    Pooling pooling;
    View out, n_updates, remainders;
    std::function<void()> check_signals;  // as that of `Run`
};

// running_rows: how many rows each iteration computed; finite: whether all of `out` is.
struct Encoded {
    std::vector<int64_t> running_rows;
    bool finite;
};

// Each sequence's result is what it has alone: tokens are of type 0, positions count from the
// first. May run in several threads at once, as the engine.
class Encoder {
  public:
    virtual ~Encoder() = default;
    // As with the engine, binding's `check` comes first.
    virtual Encoded run(const Encode& call) = 0;
    virtual ScalarType dtype() const = 0;
    virtual int64_t width() const = 0;
    virtual int64_t vocabulary() const = 0;
    virtual int64_t max_tokens() const = 0;
    virtual bool has_pooler() const = 0;
    virtual size_t workspace_bytes() const = 0;
    // Of the last run that had the encoder's own workspace: the engine's, and the pooler's product.
    virtual Seconds seconds() const = 0;
};

std::unique_ptr<Encoder> make_encoder(std::shared_ptr<Engine> engine, const Embeddings& embeddings);

}  // namespace albert_act_fast::engine
