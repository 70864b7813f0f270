// Depthwise convolution and its two gradients.
//
// A row is computed in blocks of up to MAX_BLOCK columns. A block holds one vector of channels per column in
// registers and goes through the taps of the kernel, so that each result is stored once. Nothing is padded:
// inputs outside the image count as zero.

#pragma once

#include <utility>
#include <vector>

#include "parallel.h"
#include "vector.h"

namespace {

constexpr int MAX_BLOCK = 8;             // so that sums, kernel and input fit into 16 registers
constexpr int64_t CHUNK_BYTES = 1024;    // of channels at a time: their kernel stays in the first cache
constexpr int64_t TASK_MADDS = 1 << 18;  // multiply-adds of one task: tens of microseconds
constexpr int64_t MIN_PART_POSITIONS = 256;

// Lanes of the widest vector that `channels` fill: a power of two, but never 2.
template <class T>
int lanes(int64_t channels) {
  int n = VECTOR_BYTES / sizeof(T);
  while (n > channels) n /= 2;
  return n < 4 ? 1 : n;
}

// Up to MAX_BLOCK neighboring columns of a row, and their taps: the columns of the kernel that they meet.
// The same for all rows. Offsets count elements from the start of a row.
struct Block {
  struct Tap {
    int64_t source_offset, kernel_offset;  // of the first column's input, and of the tap's weights
    int64_t begin, end;                    // the block's columns whose input is inside the image
  };
  int64_t begin;
  int columns;
  bool edge;  // some input is outside the image
  std::vector<Tap> taps;
};

// (j, offset): column q of a row meets the kernel's column j at the source's column q * step + offset.
using ColumnTap = std::pair<int64_t, int64_t>;

// Cuts a row of `columns` columns into blocks. `width` is the source's, `kernel_stride` lies between the
// kernel's columns, in elements.
std::vector<Block> cut(int64_t columns, const std::vector<ColumnTap>& taps, int64_t step, int64_t width,
                       int64_t C, int64_t kernel_stride) {
  const int64_t count = ceil_div(columns, MAX_BLOCK);
  std::vector<Block> blocks;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = columns * i / count, size = columns * (i + 1) / count - begin;
    Block block{begin, static_cast<int>(size), false, {}};
    for (const auto& [j, offset] : taps) {
      const int64_t first = begin * step + offset;
      const int64_t inside = first < 0 ? ceil_div(-first, step) : 0;
      const int64_t outside = first < width ? ceil_div(width - first, step) : 0;
      block.edge |= inside > 0 || outside < size;
      block.taps.push_back({first * C, j * kernel_stride, inside, outside});
    }
    blocks.push_back(std::move(block));
  }
  return blocks;
}

// A source row and the row of the kernel that meets it, or, for `correlate`, where that kernel row's sums
// are.
template <class T>
struct SourceRow {
  const T* source;
  T* kernel;
};

// One row of the result of `convolve`, or of the second operand of `correlate`, with the source rows that it
// meets. Strides are in elements: `stride` between neighboring columns of the row, `source_stride` between
// their inputs.
template <class T>
struct Row {
  std::vector<SourceRow<T>> sources;
  int64_t source_stride, channels;
  T* start;
  int64_t stride;
};

template <class T, int N, bool EDGE>
inline typename Vector<T, N>::type input(const T* source, int64_t stride, const Block::Tap& tap, int q) {
  if (EDGE && (q < tap.begin || q >= tap.end)) return typename Vector<T, N>::type{};
  return Vector<T, N>::load(source + q * stride);
}

// row = sum over taps of input * kernel.
template <class T, int N, int Q, bool EDGE>
void convolve(const Row<T>& row, const Block& block) {
  using V = Vector<T, N>;
  const int64_t source_stride = row.source_stride, stride = row.stride, channels = row.channels;
  for (int64_t at = 0; at < channels; at += N) {
    const int64_t c = std::min(at, channels - N);  // the last vector repeats channels of the one before
    typename V::type sums[Q] = {};
    for (const SourceRow<T>& line : row.sources) {
      for (const Block::Tap& tap : block.taps) {
        const T* source = line.source + tap.source_offset + c;
        const auto kernel = V::load(line.kernel + tap.kernel_offset + c);
        for (int q = 0; q < Q; ++q) sums[q] += input<T, N, EDGE>(source, source_stride, tap, q) * kernel;
      }
    }
    T* to = row.start + block.begin * stride + c;
    for (int q = 0; q < Q; ++q) V::store(to + q * stride, sums[q]);
  }
}

// kernel += sum over columns of input * row. The last vector's sums are stored behind the others: see
// `add_parts`.
template <class T, int N, int Q, bool EDGE>
void correlate(const Row<T>& row, const Block& block) {
  using V = Vector<T, N>;
  const int64_t source_stride = row.source_stride, stride = row.stride, channels = row.channels;
  for (int64_t at = 0; at < channels; at += N) {
    const int64_t c = std::min(at, channels - N);
    const T* from = row.start + block.begin * stride + c;
    typename V::type dy[Q];
    for (int q = 0; q < Q; ++q) dy[q] = V::load(from + q * stride);
    for (const SourceRow<T>& line : row.sources) {
      for (const Block::Tap& tap : block.taps) {
        const T* source = line.source + tap.source_offset + c;
        T* kernel = line.kernel + tap.kernel_offset + at;
        typename V::type sum = {};
        for (int q = 0; q < Q; ++q) sum += input<T, N, EDGE>(source, source_stride, tap, q) * dy[q];
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

// The sizes of images [..., H, W, C], or of kernels: B of them, over all leading axes.
struct Shape {
  int64_t B = 1, H, W, C;
  explicit Shape(ffi::AnyBuffer buffer) {
    const auto sizes = buffer.dimensions();
    const size_t rank = sizes.size();
    for (size_t axis = 0; axis + 3 < rank; ++axis) B *= sizes[axis];
    H = sizes[rank - 3], W = sizes[rank - 2], C = sizes[rank - 1];
  }
};

// A convolution: its shapes, the padding before rows and columns, the stride, and the dilation, which is the
// distance between the inputs of neighboring elements of the kernel.
struct Geometry {
  Shape x, kernel, y;
  int64_t top, left, stride, dilation;

  // The rows of x from the first to the last that one row of y meets.
  int64_t reach() const { return (kernel.H - 1) * dilation + 1; }

  // The blocks of a row of y. `kernel_stride` lies between the kernel's columns, in elements.
  std::vector<Block> blocks(int64_t kernel_stride) const {
    std::vector<ColumnTap> taps;
    for (int64_t j = 0; j < kernel.W; ++j) taps.push_back({j, j * dilation - left});
    return cut(y.W, taps, stride, x.W, x.C, kernel_stride);
  }

  // The blocks of a row of the gradient to x, for each phase: every stride-th column, since these have the
  // same taps.
  std::vector<std::vector<Block>> phases() const {
    std::vector<std::vector<Block>> blocks;
    for (int64_t phase = 0; phase < std::min(stride, x.W); ++phase) {
      std::vector<ColumnTap> taps;
      for (int64_t j = 0; j < kernel.W; ++j) {
        const int64_t column = phase + left - j * dilation;
        if (column % stride == 0) taps.push_back({j, column / stride});
      }
      blocks.push_back(cut(ceil_div(x.W - phase, stride), taps, 1, y.W, x.C, x.C));
    }
    return blocks;
  }
};

// Channels in `count` chunks of `size`, the last one shorter.
struct Chunks {
  int64_t size, count;
  Chunks(int64_t C, int64_t max_size) {
    size = ceil_div(ceil_div(C, ceil_div(C, max_size)), 16) * 16;
    count = ceil_div(C, size);
  }
};

// y[r, w] = sum of x[r * stride + i * dilation - top, w * stride + j * dilation - left] * kernel[i, j];
// source is x, result is y. Transposed, the gradient to x: source is dy, result is dx, and dx[r, w] is the
// sum of dy[o, p] * kernel[i, j] over the outputs (o, p) that meet (r, w) with tap (i, j).
template <class T>
void convolution(ffi::ThreadPool& pool, const Geometry& g, const T* source, T* kernels, T* result,
                 bool transposed) {
  const Shape from = transposed ? g.y : g.x, to = transposed ? g.x : g.y;
  const int64_t C = to.C, rows = to.B * to.H, images_per_kernel = to.B / g.kernel.B;
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const int64_t madds_per_row = to.W * g.kernel.H * g.kernel.W * chunks.size;
  const int64_t rows_per_task = std::max<int64_t>(1, TASK_MADDS / madds_per_row);
  const int64_t phases = transposed ? g.stride : 1, step = transposed ? 1 : g.stride;
  const auto blocks = transposed ? g.phases() : std::vector<std::vector<Block>>{g.blocks(C)};
  parallel_for(pool, ceil_div(rows, rows_per_task) * chunks.count, [&](int64_t task) {
    const int64_t c = task % chunks.count * chunks.size, first = task / chunks.count * rows_per_task;
    Row<T> row{{}, step * C, std::min(chunks.size, C - c), nullptr, phases * C};
    for (int64_t n = first; n < std::min(rows, first + rows_per_task); ++n) {
      const int64_t image = n / to.H, r = n % to.H;
      T* weights = kernels + image / images_per_kernel * g.kernel.H * g.kernel.W * C + c;
      row.sources.clear();
      for (int64_t i = 0; i < g.kernel.H; ++i) {
        const int64_t offset = i * g.dilation - g.top;
        const int64_t at = transposed ? r - offset : r * g.stride + offset, line = at / phases;
        if (at < 0 || at % phases != 0 || line >= from.H) continue;
        const T* const start = source + (image * from.H + line) * from.W * C + c;
        row.sources.push_back({start, weights + i * g.kernel.W * C});
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
void add_parts(T* total, const T* sums, int64_t parts, int64_t part_stride, int64_t channels) {
  const int64_t n = lanes<T>(channels), whole = channels / n * n;
  const int64_t repeated = ceil_div(channels, n) * n - channels;
  std::fill_n(total, channels, T(0));
  for (int64_t part = 0; part < parts; ++part, sums += part_stride) {
    for (int64_t c = 0; c < whole; ++c) total[c] += sums[c];
    for (int64_t c = whole; c < channels; ++c) total[c] += sums[c + repeated];
  }
}

// dkernel[i, j] = sum of x[r * stride + i * dilation - top, w * stride + j * dilation - left] * dy[r, w]. The
// rows of dy are cut into parts.
template <class T>
void kernel_gradient(ffi::ThreadPool& pool, const Geometry& g, const T* x, T* dy, T* dkernel) {
  const int64_t C = g.y.C, rows = g.y.B / g.kernel.B * g.y.H, taps = g.kernel.H * g.kernel.W;
  const int64_t parts = std::clamp<int64_t>(rows * g.y.W / MIN_PART_POSITIONS, 1, MAX_PARTS);
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const int64_t tap_stride = chunks.size * chunks.count, part_stride = taps * tap_stride;
  const std::unique_ptr<T[]> sums(new T[g.kernel.B * parts * part_stride]);
  const auto blocks = g.blocks(tap_stride);
  parallel_for(pool, g.kernel.B * parts * chunks.count, [&](int64_t task) {
    const int64_t c = task % chunks.count * chunks.size, part = task / chunks.count;
    T* part_sums = sums.get() + part * part_stride + c;
    for (int64_t tap = 0; tap < taps; ++tap) std::fill_n(part_sums + tap * tap_stride, chunks.size, T(0));
    Row<T> row{{}, g.stride * C, std::min(chunks.size, C - c), nullptr, C};
    const int64_t seed = part / parts, p = part % parts;
    for (int64_t n = seed * rows + rows * p / parts; n < seed * rows + rows * (p + 1) / parts; ++n) {
      const int64_t image = n / g.y.H, r = n % g.y.H;
      row.sources.clear();
      for (int64_t i = 0; i < g.kernel.H; ++i) {
        const int64_t at = r * g.stride + i * g.dilation - g.top;
        if (at < 0 || at >= g.x.H) continue;
        T* const tap_sums = part_sums + i * g.kernel.W * tap_stride;
        row.sources.push_back({x + (image * g.x.H + at) * g.x.W * C + c, tap_sums});
      }
      row.start = dy + n * g.y.W * C + c;
      run_row(CORRELATE, row, blocks);
    }
  });
  for (int64_t tap = 0; tap < g.kernel.B * taps; ++tap) {
    for (int64_t c = 0; c < C; c += chunks.size) {
      const T* first = sums.get() + tap / taps * parts * part_stride + tap % taps * tap_stride + c;
      add_parts(dkernel + tap * C + c, first, parts, part_stride, std::min(chunks.size, C - c));
    }
  }
}

}  // namespace
