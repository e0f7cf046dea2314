// A checksum of a tensor's bytes that no single change leaves as it was. Included inside an
// instruction set's namespace.
#pragma once

// Sums a mix of every 8-byte word and its place: the parts of a tensor can be summed in any order.
// `count` words, the first of which is word `first` of the tensor.
inline uint64_t checksum_words(const unsigned char* words, int64_t first, int64_t count) {
    // Two rounds of degski's mixer: after one, changes of the highest bits, such as the signs of
    // two numbers, could still cancel out.
    constexpr uint64_t mixer = 0xD6E8FEB86659FD93u;
    uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) {
        uint64_t word;
        __builtin_memcpy(&word, words + 8 * i, 8);
        word += uint64_t(first + i) * 0x9E3779B97F4A7C15u;
        word = (word ^ (word >> 32)) * mixer;
        word = (word ^ (word >> 32)) * mixer;
        sum += word ^ (word >> 32);
    }
    return sum;
}
