// A depthwise convolution between two norms, each with its clip, and the gradient of the three.
//
// What the first norm makes of x, and the second of dy, is computed a row at a time, when the convolution comes to it,
// and is never written to memory: K rows of it are held at once.

#pragma once

#include "depthwise.h"
#include "norm.h"

namespace {

constexpr int64_t WHOLE_IMAGE = 1 << 18;  // elements; smaller ones are not parted, which makes some rows twice

// The last K rows that were made of those of an image.
template <class T>
struct Ring {
  const int64_t rows, size;
  const std::unique_ptr<T[]> memory;
  int64_t next = 0;
  Ring(int64_t rows, int64_t size) : rows(rows), size(size), memory(new T[rows * size]) {}
  T* row(int64_t index) const { return memory.get() + index % rows * size; }

  // Makes those of `first` to `last` that are missing; make(index, to).
  template <class Make>
  void fill(int64_t first, int64_t last, const Make& make) {
    for (next = std::max(next, first); next < last; ++next) make(next, row(next));
  }
};

struct Geometry {
  Shape x, kernel, y;
  int64_t top, left, stride;
};

// y = convolution of what the norm makes of x, and y's moments.
template <class T>
void filter_forward(ffi::ThreadPool& pool, const Geometry& g, const Norm<T>& norm, const T* x, T* kernel, const Groups& groups,
            T* y, T* mean, T* var) {
  const int64_t C = g.x.C, K = g.kernel.H, width = g.x.W * C;
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const auto blocks = phases_of(g.y.W, g.x.W, C, g.kernel, g.left, g.stride, false)[0];
  Sums<T> sums(groups);
  groups.each(pool, false, [&](int64_t group, int64_t part) {
    const Normal<T> normal = norm.of(group);
    T* const weights = kernel + norm.seed(group) * K * g.kernel.W * C;
    Ring<T> ring(K, width);
    Row<T> row{{}, g.stride * C, 0, nullptr, C};
    const int64_t first = groups.start(group, part) / (g.y.W * C), last = first + groups.size(part) / g.y.W;
    for (int64_t n = first; n < last; ++n) {
      const int64_t image = n / g.y.H, r = n % g.y.H, from = r * g.stride - g.top;
      if (r == 0) ring.next = 0;
      ring.fill(std::max<int64_t>(from, 0), std::min(from + K, g.x.H), [&](int64_t index, T* to) {
        normal.apply(x + (image * g.x.H + index) * width, g.x.W, C, to);
      });
      T* const to = y + n * g.y.W * C;
      for (int64_t c = 0; c < C; c += chunks.size) {
        row.lines.clear(), row.channels = std::min(chunks.size, C - c), row.start = to + c;
        for (int64_t i = 0; i < K; ++i) {
          if (from + i >= 0 && from + i < g.x.H)
            row.lines.push_back({ring.row(from + i) + c, weights + i * g.kernel.W * C + c});
        }
        run_row(CONVOLVE, row, blocks);
      }
      if (n == first) set_pivot(to, g.y.W, C, sums.part(group, part));
      add_powers(to, g.y.W, C, sums.part(group, part));
    }
  });
  join_moments(sums, mean, var);
}

// From z, y's norm and its gradient: those to x, where the first norm's parameters, and to the kernel.
template <class T>
void filter_backward(ffi::ThreadPool& pool, const Geometry& g, Norm<T>& norm, const T* x, T* kernel,
                     const Norm<T>& outer, const T* y, const T* dz, T* dx, T* dscale, T* dbias, T* dkernel) {
  const Groups& groups = norm.groups;
  const int64_t C = g.x.C, K = g.kernel.H, taps = K * g.kernel.W, width = g.y.W * C;
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const int64_t sums_C = chunks.size * chunks.count, jump = taps * sums_C;
  const auto transposed = phases_of(g.x.W, g.y.W, C, g.kernel, g.left, g.stride, true);
  std::vector<std::pair<int64_t, int64_t>> columns;
  for (int64_t j = 0; j < g.kernel.W; ++j) columns.push_back({j, j - g.left});
  const auto blocks = cut(g.y.W, columns, g.stride, g.x.W, C, sums_C);
  std::vector<T> products(groups.count * groups.parts * jump);
  Sums<T> sums(groups);
  groups.each(pool, false, [&](int64_t group, int64_t part) {
    const Normal<T> normal = norm.of(group), behind = outer.of(group);
    T* const weights = kernel + norm.seed(group) * taps * C;
    T* const own = products.data() + (group * groups.parts + part) * jump;
    Ring<T> ring((K - 1) / g.stride + 1, width);
    const std::unique_ptr<T[]> h(new T[g.x.W * C]);
    Row<T> row{{}, C, 0, nullptr, g.stride * C}, product{{}, g.stride * C, 0, nullptr, C};
    const int64_t first = groups.start(group, part) / (g.x.W * C), last = first + groups.size(part) / g.x.W;
    for (int64_t n = first; n < last; ++n) {
      const int64_t image = n / g.x.H, r = n % g.x.H;
      if (r == 0) ring.next = 0;
      // Output row o takes row r with the kernel's row i = r + top - o * stride.
      const int64_t reach = r + g.top - K + 1, from = reach > 0 ? ceil_div(reach, g.stride) : 0;
      const int64_t to = std::min((r + g.top) / g.stride + 1, g.y.H);
      ring.fill(from, to, [&](int64_t index, T* row) {
        const int64_t at = (image * g.y.H + index) * width;
        behind.gradient(y + at, dz + at, g.y.W, C, row);
      });
      const T* const source = x + n * g.x.W * C;
      T* const target = dx + n * g.x.W * C;
      normal.apply(source, g.x.W, C, h.get());
      for (int64_t c = 0; c < C; c += chunks.size) {
        row.channels = product.channels = std::min(chunks.size, C - c);
        row.lines.clear();
        for (int64_t o = from; o < to; ++o) {
          const int64_t i = r + g.top - o * g.stride;
          row.lines.push_back({ring.row(o) + c, weights + i * g.kernel.W * C + c});
          product.lines = {{h.get() + c, own + i * g.kernel.W * sums_C + c}};
          product.start = ring.row(o) + c;
          run_row(CORRELATE, product, blocks);
        }
        for (size_t phase = 0; phase < transposed.size(); ++phase) {
          row.start = target + phase * C + c;
          run_row(CONVOLVE, row, transposed[phase]);
        }
      }
      normal.add_gradient(source, target, g.x.W, C, sums.part(group, part));
    }
  });
  norm.join_gradient(sums, dscale, dbias);
  const int64_t parts = groups.of_seed * groups.parts;
  for (int64_t tap = 0; tap < g.kernel.B * taps; ++tap) {
    for (int64_t c = 0; c < C; c += chunks.size) {
      const T* from = products.data() + tap / taps * parts * jump + tap % taps * sums_C + c;
      add_parts(dkernel + tap * C + c, from, parts, jump, std::min(chunks.size, C - c));
    }
  }
  norm.gradient(pool, true, x, dx, dx);
}

}  // namespace
