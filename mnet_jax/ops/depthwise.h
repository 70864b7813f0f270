// Depthwise convolution and its two gradients.
//
// A row is computed in blocks of up to MAX_BLOCK columns. A block holds one vector of channels per column in
// registers and goes through the taps of the kernel, so that each result is stored once. Nothing is padded: what
// falls outside counts as zero.

#pragma once

#include <utility>
#include <vector>

#include "units.h"

namespace {

constexpr int MAX_BLOCK = 8;           // so that sums, kernel and input fit into 16 registers
constexpr int64_t CHUNK_BYTES = 1024;  // of channels at a time, so that the taps' kernels stay in the nearest cache
constexpr int64_t UNIT = 1 << 18;      // multiply-adds that a thread takes at a time: tens of microseconds
constexpr int64_t PART = 256;          // positions that a part has at least

// The widest vector that `channels` fill: a power of two, but never 2.
template <class T>
int lanes(int64_t channels) {
  int n = VECTOR_BYTES / sizeof(T);
  while (n > channels) n /= 2;
  return n < 4 ? 1 : n;
}

// Up to MAX_BLOCK neighboring columns of a row, and the columns of the kernel that they meet; the same for all rows.
struct Block {
  struct Tap {
    int64_t source, kernel;  // where the block's first input, and the tap's weights, are in their rows
    int64_t lo, hi;          // the block's columns that find their input inside
  };
  int64_t begin;
  int columns;
  bool edge;  // some input is outside
  std::vector<Tap> taps;
};

// The blocks of a row of `columns` columns; column q takes tap (j, first) from the source's column q * step + first.
std::vector<Block> cut(int64_t columns, const std::vector<std::pair<int64_t, int64_t>>& taps, int64_t step,
                       int64_t width, int64_t C, int64_t kernel_jump) {
  const int64_t count = ceil_div(columns, MAX_BLOCK);
  std::vector<Block> blocks;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = columns * i / count, size = columns * (i + 1) / count - begin;
    Block block{begin, static_cast<int>(size), false, {}};
    for (const auto& [j, offset] : taps) {
      const int64_t first = begin * step + offset;
      const int64_t lo = first < 0 ? ceil_div(-first, step) : 0, hi = first < width ? ceil_div(width - first, step) : 0;
      block.edge |= lo > 0 || hi < size;
      block.taps.push_back({first * C, j * kernel_jump, lo, hi});
    }
    blocks.push_back(std::move(block));
  }
  return blocks;
}

// A source row and the row of the kernel that meets it; in the gradient to the kernel, that row's sums.
template <class T>
struct Line {
  const T* source;
  T* kernel;
};

// A row, its columns row_jump apart, with the lines that it meets; their inputs are `jump` apart.
template <class T>
struct Row {
  std::vector<Line<T>> lines;
  int64_t jump, channels;
  T* start;
  int64_t row_jump;
};

template <class T, int N, bool EDGE>
inline typename Vector<T, N>::type input(const T* source, int64_t jump, const Block::Tap& tap, int q) {
  if (EDGE && (q < tap.lo || q >= tap.hi)) return typename Vector<T, N>::type{};
  return Vector<T, N>::load(source + q * jump);
}

// row = sum over taps of input * kernel.
template <class T, int N, int Q, bool EDGE>
void convolve(const Row<T>& row, const Block& block) {
  using V = Vector<T, N>;
  const int64_t jump = row.jump, row_jump = row.row_jump, channels = row.channels;
  for (int64_t at = 0; at < channels; at += N) {
    const int64_t c = std::min(at, channels - N);  // the last vector repeats channels of the one before
    typename V::type sums[Q] = {};
    for (const Line<T>& line : row.lines) {
      for (const Block::Tap& tap : block.taps) {
        const T* source = line.source + tap.source + c;
        const auto kernel = V::load(line.kernel + tap.kernel + c);
        for (int q = 0; q < Q; ++q) sums[q] += input<T, N, EDGE>(source, jump, tap, q) * kernel;
      }
    }
    T* to = row.start + block.begin * row_jump + c;
    for (int q = 0; q < Q; ++q) V::store(to + q * row_jump, sums[q]);
  }
}

// kernel += sum over columns of input * row. The last vector's sums stand behind the others: see `add_parts`.
template <class T, int N, int Q, bool EDGE>
void correlate(const Row<T>& row, const Block& block) {
  using V = Vector<T, N>;
  const int64_t jump = row.jump, row_jump = row.row_jump, channels = row.channels;
  for (int64_t at = 0; at < channels; at += N) {
    const int64_t c = std::min(at, channels - N);
    const T* from = row.start + block.begin * row_jump + c;
    typename V::type dy[Q];
    for (int q = 0; q < Q; ++q) dy[q] = V::load(from + q * row_jump);
    for (const Line<T>& line : row.lines) {
      for (const Block::Tap& tap : block.taps) {
        const T* source = line.source + tap.source + c;
        T* kernel = line.kernel + tap.kernel + at;
        typename V::type sum = {};
        for (int q = 0; q < Q; ++q) sum += input<T, N, EDGE>(source, jump, tap, q) * dy[q];
        V::store(kernel, V::load(kernel) + sum);
      }
    }
  }
}

enum Operation { CONVOLVE, CORRELATE };

template <class T, int N, int... Q>
void run_row(Operation operation, const Row<T>& row, const std::vector<Block>& blocks,
             std::integer_sequence<int, Q...>) {
  static constexpr void (*functions[2][2][MAX_BLOCK])(const Row<T>&, const Block&) = {
      {{convolve<T, N, Q + 1, false>...}, {convolve<T, N, Q + 1, true>...}},
      {{correlate<T, N, Q + 1, false>...}, {correlate<T, N, Q + 1, true>...}}};
  for (const Block& block : blocks) functions[operation][block.edge][block.columns - 1](row, block);
}

template <class T>
void run_row(Operation operation, const Row<T>& row, const std::vector<Block>& blocks) {
  constexpr auto columns = std::make_integer_sequence<int, MAX_BLOCK>();
  constexpr int widest = VECTOR_BYTES / sizeof(T);
  switch (lanes<T>(row.channels)) {
    case 16: return run_row<T, std::min(16, widest)>(operation, row, blocks, columns);
    case 8: return run_row<T, std::min(8, widest)>(operation, row, blocks, columns);
    case 4: return run_row<T, std::min(4, widest)>(operation, row, blocks, columns);
    default: return run_row<T, 1>(operation, row, blocks, columns);
  }
}

// Images, or kernels: B of them, over all leading axes.
struct Shape {
  int64_t B = 1, H, W, C;
  explicit Shape(ffi::AnyBuffer buffer) {
    const auto sizes = buffer.dimensions();
    const size_t rank = sizes.size();
    for (size_t axis = 0; axis + 3 < rank; ++axis) B *= sizes[axis];
    H = sizes[rank - 3], W = sizes[rank - 2], C = sizes[rank - 1];
  }
};

// Channels in `count` chunks of `size`, the last one shorter.
struct Chunks {
  int64_t size, count;
  Chunks(int64_t C, int64_t most) {
    size = ceil_div(ceil_div(C, ceil_div(C, most)), 16) * 16;
    count = ceil_div(C, size);
  }
};

// The blocks of a row of y; or, transposed, of a row of the gradient to x: of every stride-th column, which all have the
// same taps, a phase. The other row is `width` wide.
std::vector<std::vector<Block>> phases_of(int64_t columns, int64_t width, int64_t C, Shape kernel, int64_t left,
                                          int64_t stride, bool transposed) {
  const int64_t phases = transposed ? stride : 1, step = transposed ? 1 : stride;
  std::vector<std::vector<Block>> blocks;
  for (int64_t phase = 0; phase < std::min(phases, columns); ++phase) {
    std::vector<std::pair<int64_t, int64_t>> taps;
    for (int64_t j = (phase + left) % phases; j < kernel.W; j += phases)
      taps.push_back({j, transposed ? (phase + left - j) / stride : j - left});
    blocks.push_back(cut(ceil_div(columns - phase, phases), taps, step, width, C, C));
  }
  return blocks;
}

// y[r, w] = sum of x[r * stride + i - top, w * stride + j - left] * kernel[i, j], or, transposed, the gradient to x:
// the sum of dy[o, p] * kernel[i, j] where (o, p) takes tap (i, j) from (r, w). There every stride-th column has the
// same taps, and these columns, a phase, are computed together.
template <class T>
void convolution(ffi::ThreadPool& pool, const T* source, Shape from, T* kernels, Shape kernel, T* result, Shape to,
                 int64_t top, int64_t left, int64_t stride, bool transposed) {
  const int64_t C = to.C, rows = to.B * to.H, images = to.B / kernel.B;
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const int64_t band = std::max<int64_t>(1, UNIT / (to.W * kernel.H * kernel.W * chunks.size));
  const int64_t phases = transposed ? stride : 1, step = transposed ? 1 : stride;
  const auto blocks = phases_of(to.W, from.W, C, kernel, left, stride, transposed);
  run_units(pool, ceil_div(rows, band) * chunks.count, [&](int64_t unit) {
    const int64_t c = unit % chunks.count * chunks.size, first = unit / chunks.count * band;
    Row<T> row{{}, step * C, std::min(chunks.size, C - c), nullptr, phases * C};
    for (int64_t n = first; n < std::min(rows, first + band); ++n) {
      const int64_t image = n / to.H, r = n % to.H;
      T* weights = kernels + image / images * kernel.H * kernel.W * C + c;
      row.lines.clear();
      for (int64_t i = 0; i < kernel.H; ++i) {
        const int64_t at = transposed ? r + top - i : r * stride + i - top, o = at / phases;
        if (at >= 0 && at % phases == 0 && o < from.H)
          row.lines.push_back({source + (image * from.H + o) * from.W * C + c, weights + i * kernel.W * C});
      }
      for (size_t phase = 0; phase < blocks.size(); ++phase) {
        row.start = result + (n * to.W + phase) * C + c;
        run_row(CONVOLVE, row, blocks[phase]);
      }
    }
  });
}

// total[c] = sum over parts, in their order, of what `correlate` left in each for `channels` channels.
template <class T>
void add_parts(T* total, const T* sums, int64_t parts, int64_t part_jump, int64_t channels) {
  const int64_t n = lanes<T>(channels), whole = channels / n * n, repeated = ceil_div(channels, n) * n - channels;
  std::fill_n(total, channels, T(0));
  for (int64_t part = 0; part < parts; ++part, sums += part_jump) {
    for (int64_t c = 0; c < whole; ++c) total[c] += sums[c];
    for (int64_t c = whole; c < channels; ++c) total[c] += sums[c + repeated];
  }
}

// dk[i, j] = sum of x[r * stride + i - top, w * stride + j - left] * dy[r, w]. The rows of dy are cut into parts by
// the shapes alone and the parts are added in order, so the bits do not depend on the threads.
template <class T>
void kernel_gradient(ffi::ThreadPool& pool, const T* x, Shape from, T* dy, Shape to, T* dk, Shape kernel, int64_t top,
                     int64_t left, int64_t stride) {
  const int64_t C = to.C, rows = to.B / kernel.B * to.H, taps = kernel.H * kernel.W;
  const int64_t parts = std::clamp<int64_t>(rows * to.W / PART, 1, MOST_PARTS);
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const int64_t sums_C = chunks.size * chunks.count, part_jump = taps * sums_C;
  const std::unique_ptr<T[]> sums(new T[kernel.B * parts * part_jump]);
  std::vector<std::pair<int64_t, int64_t>> columns;
  for (int64_t j = 0; j < kernel.W; ++j) columns.push_back({j, j - left});
  const auto blocks = cut(to.W, columns, stride, from.W, C, sums_C);
  run_units(pool, kernel.B * parts * chunks.count, [&](int64_t unit) {
    const int64_t c = unit % chunks.count * chunks.size, part = unit / chunks.count;
    T* own = sums.get() + part * part_jump + c;
    for (int64_t tap = 0; tap < taps; ++tap) std::fill_n(own + tap * sums_C, chunks.size, T(0));
    Row<T> row{{}, stride * C, std::min(chunks.size, C - c), nullptr, C};
    const int64_t seed = part / parts, p = part % parts;
    for (int64_t n = seed * rows + rows * p / parts; n < seed * rows + rows * (p + 1) / parts; ++n) {
      const int64_t image = n / to.H, r = n % to.H;
      row.lines.clear();
      for (int64_t i = 0; i < kernel.H; ++i) {
        const int64_t at = r * stride + i - top;
        if (at >= 0 && at < from.H)
          row.lines.push_back({x + (image * from.H + at) * from.W * C + c, own + i * kernel.W * sums_C});
      }
      row.start = dy + n * to.W * C + c;
      run_row(CORRELATE, row, blocks);
    }
  });
  for (int64_t tap = 0; tap < kernel.B * taps; ++tap) {
    for (int64_t c = 0; c < C; c += chunks.size) {
      const T* first = sums.get() + tap / taps * parts * part_jump + tap % taps * sums_C + c;
      add_parts(dk + tap * C + c, first, parts, part_jump, std::min(chunks.size, C - c));
    }
  }
}

}  // namespace
