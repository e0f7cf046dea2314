// The CPU kernels, and the arguments of those that are no operators: plain pointers and sizes.
//
// Every kernel works on a range of its items; the caller splits the items among threads. Results do
// not depend on how.
#pragma once

#include <cstdint>

#include "../semantics/activation_names.h"
#include "../semantics/operators.h"

namespace albert_act_fast::cpu {

// Weights are packed in panels of kPanel columns: panel by panel, and in each for every step
// through the depth the kPanel columns' words side by side. A word holds as many neighbours in
// depth as fit the instruction that multiplies them: one float, two bfloat16 or four int8. What is
// missing to full words and panels is 0.
constexpr int64_t kPanel = 32;
inline int64_t panels_of(int64_t columns) {
    return (columns + kPanel - 1) / kPanel;
}

struct __attribute__((may_alias)) BFloat16Pair {
    uint32_t bits;
};
// Of weights four int8; of activations four of those or of uint8, which are int8 plus 128:
// whichever the instruction set multiplies by (panel.h).
struct __attribute__((may_alias)) Int8Quad {
    uint32_t bits;
};

template <class T>
struct WordOf {
    using type = T;
};
template <>
struct WordOf<BFloat16> {
    using type = BFloat16Pair;
};

// What a key or value is kept in: words of two neighbours for bfloat16, so that the instruction for
// bfloat16 products reads them as they are, else one number for each.
template <class T>
struct KeyWordOf {
    using type = Arithmetic<T>;
    using element = Arithmetic<T>;
};
template <>
struct KeyWordOf<BFloat16> {
    using type = BFloat16Pair;
    using element = BFloat16;
};

// The keys and values of all heads and sequences, in panels as weights are: attention then is two
// products by panels. A sequence's keys and values of one head lie together.
//   keys: panels of kPanel keys, through the depth of a head;
//   values: panels of kPanel columns of the head, through the sequence's keys, filled up to full
//   panels of them.
// What is filled up is 0. Several short sequences share a panel of keys, each from a word's first
// key on: a panel for each would take memory for kPanel keys.
template <class T>
struct KeyValueStore {
    using Word = typename KeyWordOf<T>::type;
    using Element = typename KeyWordOf<T>::element;
    static constexpr int64_t kStep = sizeof(Word) / sizeof(Element);

    Element* data = nullptr;
    const int64_t* key_offsets = nullptr;
    // Of each sequence's keys; a panel of keys has kPanel slots.
    const int64_t* first_slot = nullptr;
    int64_t heads = 0, head_size = 0;

    int64_t key_words() const { return (head_size + kStep - 1) / kStep; }
    int64_t value_panels() const { return panels_of(head_size); }
    int64_t panel_elements() const {
        return (key_words() * kStep + value_panels() * kPanel) * kPanel;
    }
    int64_t panels(int64_t b) const { return panels_of(key_offsets[b + 1] - key_offsets[b]); }
    // The slot of a sequence's first key in its first panel: 0 where it has that to itself.
    int64_t first_in_panel(int64_t b) const { return first_slot[b] % kPanel; }
    Element* keys(int64_t b, int64_t head) const {
        return data + (first_slot[b] / kPanel * heads + head * panels(b)) * panel_elements();
    }
    Element* values(int64_t b, int64_t head) const {
        return keys(b, head) + panels(b) * key_words() * kStep * kPanel;
    }
    // Numbers from one panel of values to the next.
    int64_t value_stride(int64_t b) const { return panels(b) * kPanel * kPanel; }
};

// Rows of keys and values to their places in the store.
template <class T>
struct WriteKeysValues {
    Matrix<const T> keys, values;
    int64_t rows = 0;
    const int64_t* token_index = nullptr;  // of each row
    const int64_t* sequence = nullptr;     // of each token
    KeyValueStore<T> store;
};

// out = activation(x W^T + bias), x in words of the weights' kind.
template <class T, class Word>
struct Product {
    Matrix<const Word> x;
    int64_t rows = 0, depth = 0;  // depth in words
    const Word* panels = nullptr;
    const float* bias = nullptr;  // as many as the panels have columns
    // int8 only: a row's and a column's factor, and the sum of a column's weights.
    const float *row_scale = nullptr, *column_scale = nullptr;
    const int32_t* column_sum = nullptr;
    Activation activation = Activation::none;
    Matrix<T> out;
    int64_t columns = 0;
};

// Rows that are multiplied by a panel before the next panel's turn: they stay in cache.
constexpr int64_t kRowChunk = 192;
inline int64_t row_chunks(int64_t rows) {
    return (rows + kRowChunk - 1) / kRowChunk;
}

// Rows to bytes as `Int8Quad` says: x = scale q, scale = the row's largest magnitude / 127.
template <class T>
struct Quantize {
    Matrix<const T> x;
    int64_t width = 0;
    Matrix<uint8_t> out;  // rows are filled up with q = 0 to full words
    float* scale = nullptr;
};

// Rows that one worker takes at a time. The candidate states of a block stay in cache between the
// halting rule and the mix, so every row is read once.
constexpr int64_t kHaltingBlock = 8;
inline int64_t halting_blocks(int64_t rows) {
    return (rows + kHaltingBlock - 1) / kHaltingBlock;
}
// Words of the halting step's workspace, which its workers share and which starts as zeros: the
// next block that nobody works on; how many rows that go on are below the threshold; and, after the
// header, for each block 1 more than the rows that go on in it and in those before, 0 until known.
constexpr int64_t kTicket = 0, kAsking = 1;

// Queries of one sequence and head that one worker takes at a time.
constexpr int64_t kQueryBlock = 128;

// Products by weights of the kind Word. items: row chunks times panels, chunk by chunk.
template <class T, class Word>
using ProductKernel = void (*)(const Product<T, Word>&, int64_t begin, int64_t end);

template <class T>
struct Kernels {
    void (*write_keys_values)(const WriteKeysValues<T>&, int64_t begin, int64_t end);  // rows
    // Keys and values from the store, not from where the arguments have them.
    // items: three numbers each, the sequence, its first query of at most kQueryBlock, the head
    void (*ragged_attention)(const RaggedAttention<T>&, const KeyValueStore<T>&,
                             const int64_t* items, int64_t begin, int64_t end);
    // Takes blocks by ticket until none is left; to be called once by each worker. Where `bytes` is
    // not null, its rows are next_hidden's, and each is quantised while it is in cache.
    void (*halting_step)(const HaltingStep<T>&, const Quantize<T>* bytes);
    // By one worker after the others, where kAsking stayed 0.
    void (*finish_rows)(const HaltingStep<T>&);
    // Null where the dtype has no products: the rows, and the kernels.
    void (*quantize)(const Quantize<T>&, int64_t begin, int64_t end);  // rows
    ProductKernel<T, Int8Quad> int8_product;
    ProductKernel<T, typename WordOf<T>::type> product;
#define AAF_MEMBER(Args, name) void (*name)(const Args<T>&, int64_t begin, int64_t end);  // rows
    AAF_ROW_OPERATORS(AAF_MEMBER)
#undef AAF_MEMBER
};

// The kernels for the widest instruction set that this machine has.
template <class T>
const Kernels<T>& kernels();

// Of `count` 8-byte words, the first of which is word `first` of the whole; the checksum of a whole
// is the sum (modulo 2^64) of those of its parts.
uint64_t checksum(const void* words, int64_t first, int64_t count);

// "amx", "avx512_vnni", "avx512", "avx2" or "portable": what kernels() chose.
const char* instruction_set();

// Whether it has instructions for products of bfloat16.
bool multiplies_bfloat16();

}  // namespace albert_act_fast::cpu
