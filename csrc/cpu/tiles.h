// The product of a few rows with one panel (kernels.h) by a matrix unit: what panel.h does in
// registers. Included inside an instruction set's namespace.
//
// A panel is, 16 words of its depth at a time, two of the unit's tiles as it lies in memory, and so
// are 16 words of up to 16 rows. Each result is one sum in the order of the depth here too; of int8
// the same number as panel.h's.
#pragma once

// Whether products by words of that kind are computed in tiles.
template <class Word>
#if defined(AAF_TILES)
constexpr bool kHasTiles = sizeof(Word) == 4 && !__is_same(Word, float);
#else
constexpr bool kHasTiles = false;
#endif

#if defined(AAF_TILES)

constexpr int64_t kTileRows = 16, kTileWords = 16;  // a tile's rows, and the words of each
constexpr int64_t kRowsInTiles = 2 * kTileRows;

// What the unit is told of its eight tiles: 0 to 3 hold sums, upper and lower rows by left and
// right columns, 4 and 5 rows of x, 6 and 7 columns of weights.
struct TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// The tiles of one thread, shaped for as many rows as it has last asked for.
class Tiles {
  public:
    ~Tiles() {
        if (rows_ != 0) _tile_release();
    }

    // For at most kRowsInTiles rows. What they hold is lost where that is another number.
    void shape(int64_t rows) {
        if (rows == rows_) return;
        rows_ = rows;
        const int64_t upper = rows < kTileRows ? rows : kTileRows;
        const int64_t heights[8] = {upper, upper,        rows - upper, rows - upper,
                                    upper, rows - upper, kTileRows,    kTileRows};
        TileShapes shapes;
        for (int i = 0; i < 8; ++i)
            if (heights[i] > 0) {
                shapes.rows[i] = uint8_t(heights[i]);
                shapes.row_bytes[i] = kTileWords * 4;
            }
        // The intrinsic does not say that it reads all of it.
        asm volatile("" : : "r"(&shapes) : "memory");
        _tile_loadconfig(&shapes);
    }

  private:
    int64_t rows_ = 0;
};

// Tile `sum` += rows by weights. The tiles' numbers are part of the instructions.
#define AAF_MULTIPLY_TILES(sum, x, w)        \
    if constexpr (__is_same(Word, Int8Quad)) \
        _tile_dpbusd(sum, x, w);             \
    else                                     \
        _tile_dpbf16ps(sum, x, w)

// sums[r][0..kPanel) += row r of x times the panel, for all rows that the tiles are shaped for; =
// where `first`. `depth` in words, a multiple of kTileWords. kLower: whether they are more than
// kTileRows.
template <bool kLower, class Word>
inline void multiply_in_tiles(const Word* x, int64_t stride, const Word* panel, int64_t depth,
                              typename SumOf<Word>::lane* sums, int64_t sums_stride, bool first) {
    constexpr int64_t word_bytes = 4, panel_bytes = kPanel * word_bytes;
    const int64_t row_bytes = stride * word_bytes, sums_bytes = sums_stride * word_bytes;
    const Word* lower = x + kTileRows * stride;
    auto* lower_sums = sums + kTileRows * sums_stride;
    // The intrinsics do not say that they read memory.
    asm volatile("" ::: "memory");
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (kLower) {
            _tile_zero(2);
            _tile_zero(3);
        }
    } else {
        _tile_loadd(0, sums, sums_bytes);
        _tile_loadd(1, sums + kTileWords, sums_bytes);
        if constexpr (kLower) {
            _tile_loadd(2, lower_sums, sums_bytes);
            _tile_loadd(3, lower_sums + kTileWords, sums_bytes);
        }
    }
    for (int64_t k = 0; k < depth; k += kTileWords) {
        const Word* weights = panel + k * kPanel;
        _tile_loadd(6, weights, panel_bytes);
        _tile_loadd(4, x + k, row_bytes);
        _tile_loadd(7, weights + kTileWords, panel_bytes);
        AAF_MULTIPLY_TILES(0, 4, 6);
        AAF_MULTIPLY_TILES(1, 4, 7);
        if constexpr (kLower) {
            _tile_loadd(5, lower + k, row_bytes);
            AAF_MULTIPLY_TILES(2, 5, 6);
            AAF_MULTIPLY_TILES(3, 5, 7);
        }
    }
    _tile_stored(0, sums, sums_bytes);
    _tile_stored(1, sums + kTileWords, sums_bytes);
    if constexpr (kLower) {
        _tile_stored(2, lower_sums, sums_bytes);
        _tile_stored(3, lower_sums + kTileWords, sums_bytes);
    }
}
#undef AAF_MULTIPLY_TILES

// The same for at most kRowsInTiles rows and any depth.
template <class Word>
inline void multiply_rows_in_tiles(Tiles& tiles, int64_t rows, const Word* x, int64_t stride,
                                   const Word* panel, int64_t depth,
                                   typename SumOf<Word>::lane* sums, int64_t sums_stride,
                                   bool first) {
    const int64_t whole = depth / kTileWords * kTileWords;
    if (whole > 0) {
        tiles.shape(rows);
        if (rows > kTileRows)
            multiply_in_tiles<true>(x, stride, panel, whole, sums, sums_stride, first);
        else
            multiply_in_tiles<false>(x, stride, panel, whole, sums, sums_stride, first);
    }
    if (whole == depth) return;
    constexpr int64_t step = kRowsAtOnce<Word>;
    for (int64_t r = 0; r < rows; r += step)
        multiply_rows<Word>(rows - r < step ? rows - r : step, x + r * stride + whole, stride,
                            panel + whole * kPanel, depth - whole, sums + r * sums_stride,
                            sums_stride, first && whole == 0);
}

#endif

// What multiplies panels by blocks of at most kRows rows: registers, or the matrix unit where there
// is one for such words.
template <class Word, bool = kHasTiles<Word>>
struct Multiplier {
    static constexpr int64_t kRows = kRowsAtOnce<Word>;
    static constexpr int64_t kManyBlocks = 5;    // from so many on, weights are fetched ahead
    static constexpr int64_t kDepthBlock = 384;  // of weights: stays in cache for a chunk of rows
    static constexpr int64_t kWords = 128;  // made float32 at once: they stay in the first cache
    using Sums = SumOf<Word>;
    void operator()(int64_t rows, const Word* x, int64_t stride, const Word* panel, int64_t depth,
                    typename Sums::lane* sums, int64_t sums_stride, bool first) {
        if constexpr (Sums::factors == 1)
            return multiply_rows<Word>(rows, x, stride, panel, depth, sums, sums_stride, first);
        else
            for (int64_t begin = 0; begin < depth; begin += kWords) {
                const int64_t words = depth - begin < kWords ? depth - begin : kWords;
                for (int64_t r = 0; r < rows; ++r) {
                    const Word* from = x + r * stride + begin;
                    float* to = factors + r * kWords * 2;
#pragma omp simd
                    for (int64_t k = 0; k < words; ++k) {
                        to[2 * k] = bit_cast<float>(from[k].bits << 16);
                        to[2 * k + 1] = bit_cast<float>(from[k].bits & 0xFFFF0000u);
                    }
                }
                multiply_rows<Word>(rows, factors, kWords, panel + begin * kPanel, words, sums,
                                    sums_stride, first && begin == 0);
            }
    }
    typename Sums::factor factors[Sums::factors == 1 ? 1 : kRows * kWords * 2];
};
#if defined(AAF_TILES)
template <class Word>
struct Multiplier<Word, true> {
    static constexpr int64_t kRows = kRowsInTiles, kManyBlocks = 3, kDepthBlock = 128;
    template <class... Args>
    void operator()(int64_t rows, Args... args) {
        // Of int8 the sums are the same, and few rows wait less for weights in registers.
        if (__is_same(Word, Int8Quad) && rows <= 8)
            multiply_rows<Word>(rows, args...);
        else
            multiply_rows_in_tiles(tiles, rows, args...);
    }
    Tiles tiles;
};
#endif
