// A checksum of a tensor's bytes that no single change leaves as it was. Included inside an
// instruction set's namespace.
#pragma once

// Sums a mix of every 8-byte word and its place: the parts of a tensor can be summed in any order.
// `words` of `data` starting at word `first`.
inline uint64_t checksum_words(const unsigned char* data, int64_t first, int64_t words) {
    uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = first; i < first + words; ++i) {
        uint64_t word;
        __builtin_memcpy(&word, data + 8 * i, 8);
        word += uint64_t(i) * 0x9E3779B97F4A7C15u;
        word = (word ^ (word >> 32)) * 0xD6E8FEB86659FD93u;
        sum += word ^ (word >> 32);
    }
    return sum;
}
