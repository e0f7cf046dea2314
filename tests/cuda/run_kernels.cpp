// Runs the kernels without Python or torch, where sanitizers see all memory and nothing else:
//     run_kernels ROWS ORDERS WIDTH
// halting_step over ROWS rows in ORDERS orders of threads, checked against the rule applied to one
// row after the other; then the other kernels once. All p are exactly 0.5, so every tie is exact.
// Prints what is wrong and ends with status 1.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <random>
#include <vector>

#include "../../csrc/cuda/kernels.h"
#include "../../csrc/semantics/halting.h"

extern "C" void simt_schedule(uint64_t seed, unsigned resident);

namespace {

using namespace albert_act_fast;

void expect(bool holds, const char* what, int64_t place) {
    if (holds) return;
    std::printf("wrong: %s at %lld\n", what, static_cast<long long>(place));
    std::exit(1);
}

// Memory of exactly the size asked for, at the alignment of a GPU's allocations.
template <class T>
class Memory {
  public:
    Memory(int64_t count, T value) : count_(count) {
        void* memory = nullptr;
        if (posix_memalign(&memory, 256, size_t(count) * sizeof(T))) std::abort();
        data_.reset(static_cast<T*>(memory));
        for (int64_t i = 0; i < count; ++i) data_.get()[i] = value;
    }
    T* get() const { return data_.get(); }
    T& operator[](int64_t i) const {
        expect(i >= 0 && i < count_, "an index of the check itself", i);
        return data_.get()[i];
    }

  private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    int64_t count_;
    std::unique_ptr<T, Free> data_;
};

constexpr float kUnwritten = -12345.0f;
constexpr int64_t kBeyond = 5, kIteration = 3;

struct Batch {
    Batch(int64_t rows_, int64_t width_, uint64_t seed)
        : rows(rows_),
          width(width_),
          random(seed),
          x((rows + kBeyond) * width, 0.0f),
          residual((rows + kBeyond) * width, 0.0f),
          hidden((rows + kBeyond) * width, 0.0f),
          ones(width, 1.0f),
          zeros(width, 0.0f),
          accumulated(rows + kBeyond, 2.0f),
          tokens(rows + kBeyond, int64_t(1) << 40) {
        std::normal_distribution<float> normal;
        // Where 0.5 is added: goes on, equals the threshold, passes it.
        const float states[] = {0.0f, 0.125f, 0.25f, 0.375f, 0.4375f};
        for (int64_t i = 0; i < rows * width; ++i) {
            x[i] = normal(random);
            residual[i] = normal(random);
            hidden[i] = normal(random);
        }
        int64_t token = 0;
        offsets.push_back(0);
        for (int64_t r = 0; r < rows; ++r) {
            accumulated[r] = states[random() % 5];
            token += 1 + int64_t(random() % 2);
            tokens[r] = token;
            while (random() % 7 == 0) offsets.push_back(r + 1);
        }
        offsets.push_back(rows);
        all_tokens = token + 1;
    }

    int64_t rows, width, all_tokens;
    std::mt19937_64 random;
    Memory<float> x, residual, hidden, ones, zeros, accumulated;
    Memory<int64_t> tokens;
    std::vector<int64_t> offsets;
};

// LayerNorm(x + residual) in double.
std::vector<double> candidate(const Batch& batch, int64_t r) {
    std::vector<double> row(size_t(batch.width));
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < batch.width; ++i) {
        row[size_t(i)] = double(batch.x[r * batch.width + i]) + batch.residual[r * batch.width + i];
        mean += row[size_t(i)] / double(batch.width);
    }
    for (double value : row) squares += (value - mean) * (value - mean);
    for (double& value : row)
        value = (value - mean) / std::sqrt(squares / double(batch.width) + 1e-12);
    return row;
}

void check_halting_step(const Batch& batch, const Memory<uint64_t>& workspace, float threshold,
                        bool last) {
    const int64_t rows = batch.rows, width = batch.width;
    const int64_t sequences = int64_t(batch.offsets.size()) - 1;
    const Memory<float> next_hidden((rows + kBeyond) * width, kUnwritten),
        next_accumulated(rows + kBeyond, kUnwritten), out(batch.all_tokens * width, kUnwritten),
        n_updates(batch.all_tokens, kUnwritten), remainders(batch.all_tokens, kUnwritten),
        halting_weight(width, 0.0f), halting_bias(1, 0.0f);
    const Memory<int64_t> next_tokens(rows + kBeyond, -1), next_offsets(sequences + 1, -1),
        offsets(sequences + 1, 0);
    for (int64_t b = 0; b <= sequences; ++b) offsets[b] = batch.offsets[size_t(b)];
    HaltingStep<float> args;
    args.ffn_output = {batch.x.get(), width};
    args.ffn_input = {batch.residual.get(), width};
    args.hidden = {batch.hidden.get(), width};
    args.norm = {batch.ones.get(), batch.zeros.get(), 1e-12f};
    args.halting_weight = halting_weight.get();
    args.halting_bias = halting_bias.get();
    args.limits.threshold = threshold;
    args.iteration = kIteration;
    args.last = last;
    args.accumulated_probability = batch.accumulated.get();
    args.token_index = batch.tokens.get();
    args.query_offsets = offsets.get();
    args.rows = rows + kBeyond;
    args.sequences = sequences;
    args.width = width;
    args.next_hidden = {next_hidden.get(), width};
    args.next_accumulated_probability = next_accumulated.get();
    args.next_token_index = next_tokens.get();
    args.next_query_offsets = next_offsets.get();
    args.workspace = workspace.get();
    args.out = {out.get(), width};
    args.n_updates = n_updates.get();
    args.remainders = remainders.get();
    cuda::run(args, nullptr);

    std::vector<Halting<float>> rules;
    bool asking = false;
    for (int64_t r = 0; r < rows; ++r) {
        rules.push_back(halting_rule(batch.accumulated[r], 0.5f, args.limits));
        asking |= rules.back().asks;
    }
    int64_t running = 0, left = 0, sequence = 0;
    for (int64_t r = 0; r < rows; ++r) {
        for (; sequence <= sequences && offsets[sequence] == r; ++sequence)
            expect(next_offsets[sequence] == running, "next_query_offsets", sequence);
        Halting<float> rule = rules[size_t(r)];
        rule.goes_on &= asking && !last;
        const int64_t token = batch.tokens[r];
        int64_t slot = rule.goes_on ? running++ : rows - 1 - left++;
        if (!asking && !last)  // then the order of the slots means nothing
            for (slot = 0; slot < rows && next_tokens[slot] != token;) ++slot;
        expect(slot < rows && next_tokens[slot] == token, "next_token_index", slot);
        const std::vector<double> g = candidate(batch, r);
        for (int64_t i = 0; i < width; ++i) {
            const double mixed = rule.weight * g[size_t(i)] +
                                 (1.0 - rule.weight) * double(batch.hidden[r * width + i]);
            expect(std::abs(next_hidden[slot * width + i] - mixed) < 1e-5, "next_hidden", slot);
            const float written = rule.goes_on ? kUnwritten : next_hidden[slot * width + i];
            expect(out[token * width + i] == written, "out", token);
        }
        if (rule.goes_on) {
            expect(next_accumulated[slot] == rule.accumulated, "accumulated probability", slot);
            expect(n_updates[token] == kUnwritten && remainders[token] == kUnwritten,
                   "a row that runs on is finished", token);
        } else {
            expect(n_updates[token] == float(kIteration), "n_updates", token);
            expect(remainders[token] == rule.remainder, "remainders", token);
        }
    }
    for (; sequence <= sequences; ++sequence)
        expect(next_offsets[sequence] == running, "next_query_offsets", sequence);
    for (int64_t i = rows * width; i < (rows + kBeyond) * width; ++i)
        expect(next_hidden[i] == kUnwritten, "a row that is not live", i / width);
    for (int64_t i = 0; i < rows + kBeyond + kHaltingWorkspaceHeader; ++i)
        expect(workspace[i] == 0, "the workspace", i);
}

void check_rows(const Batch& batch) {
    const int64_t rows = batch.rows, width = batch.width;
    const Memory<int64_t> live(1, rows);
    const Memory<float> out((rows + kBeyond) * width, kUnwritten),
        copies(batch.all_tokens * width, kUnwritten);
    AddLayerNorm<float> norm;
    norm.x = {batch.x.get(), width};
    norm.residual = {batch.residual.get(), width};
    norm.norm = {batch.ones.get(), batch.zeros.get(), 1e-12f};
    norm.row_count = live.get();
    norm.out = {out.get(), width};
    norm.rows = rows + kBeyond;
    norm.width = width;
    cuda::run(norm, nullptr);
    ScatterRows scatter;
    scatter.row_bytes = width * int64_t(sizeof(float));
    scatter.tables = 1;
    scatter.from[0] = {reinterpret_cast<const unsigned char*>(batch.x.get()), scatter.row_bytes};
    scatter.to[0] = {reinterpret_cast<unsigned char*>(copies.get()), scatter.row_bytes};
    scatter.index = batch.tokens.get();
    scatter.row_count = live.get();
    scatter.rows = rows + kBeyond;
    cuda::run(scatter, nullptr);
    for (int64_t r = 0; r < rows; ++r) {
        const std::vector<double> expected = candidate(batch, r);
        for (int64_t i = 0; i < width; ++i) {
            expect(std::abs(out[r * width + i] - expected[size_t(i)]) < 1e-5, "add_layer_norm", r);
            expect(copies[batch.tokens[r] * width + i] == batch.x[r * width + i], "scatter_rows",
                   r);
        }
    }
}

// One head over all sequences: a query's values are near the mean where all scores are 0.
void check_attention(const Batch& batch) {
    const int64_t rows = batch.rows, width = batch.width;
    const int64_t sequences = int64_t(batch.offsets.size()) - 1;
    const Memory<float> queries(rows * width, 0.0f), out(rows * width, kUnwritten),
        distances((2 * rows - 1) * width, 1.0f);
    const Memory<int64_t> offsets(sequences + 1, 0), positions(rows, 0), index(rows, 0);
    for (int64_t r = 0; r < rows; ++r) positions[r] = index[r] = r;
    for (int64_t b = 0; b <= sequences; ++b) offsets[b] = batch.offsets[size_t(b)];
    RaggedAttention<float> args;
    args.queries = {queries.get(), width};
    args.key_store = {batch.hidden.get(), width};
    args.value_store = {batch.x.get(), width};
    args.query_offsets = args.key_offsets = offsets.get();
    args.token_index = index.get();
    args.positions = positions.get();
    args.rows = rows;
    args.sequences = sequences;
    args.heads = 1;
    args.head_size = width;
    args.distance_embedding = {distances.get(), width};
    args.distances = 2 * rows - 1;
    args.out = {out.get(), width};
    cuda::run(args, nullptr);
    for (int64_t b = 0; b < sequences; ++b)
        for (int64_t r = offsets[b]; r < offsets[b + 1]; ++r)
            for (int64_t i = 0; i < width; ++i) {
                double mean = 0;
                for (int64_t k = offsets[b]; k < offsets[b + 1]; ++k)
                    mean += batch.x[k * width + i];
                mean /= double(offsets[b + 1] - offsets[b]);
                expect(std::abs(out[r * width + i] - mean) < 1e-5, "ragged_attention", r);
            }
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) return 2;
    const int64_t rows = std::atoll(arguments[1]), orders = std::atoll(arguments[2]);
    const int64_t width = std::atoll(arguments[3]);
    try {
        const Batch batch(rows, width, 1);
        const Memory<uint64_t> workspace(rows + kBeyond + kHaltingWorkspaceHeader, 0);
        for (int64_t order = 0; order < orders; ++order) {
            simt_schedule(uint64_t(order), unsigned(1 + order % 7));
            // 0.5: what reaches it equals it, and nothing asks for another iteration.
            const float thresholds[] = {0.875f, 0.75f, 1.0f, 0.5f};
            check_halting_step(batch, workspace, thresholds[order % 4], order % 5 == 4);
        }
        check_rows(batch);
        if (width <= cuda::kMaxHeadSize) check_attention(batch);
    } catch (const std::exception& error) {
        std::printf("wrong: %s\n", error.what());
        return 1;
    }
    std::printf("right\n");
}
