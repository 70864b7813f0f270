// A depthwise convolution between two norms, each with its clip, and the gradient of the three.
//
// The first norm's output and the gradient to the second norm's input are computed a row at a time, when the
// convolution comes to the row, and are never written to memory: a ring buffer has the rows that the kernel
// spans.

#pragma once

#include "depthwise.h"
#include "norm.h"

namespace {

// Elements. Parts of larger images are rows, at the price that rows near a part's border are computed twice.
constexpr int64_t MAX_WHOLE_IMAGE = 1 << 18;

// The last `rows` rows of an image that were computed, of `size` elements each.
template <class T>
struct RingBuffer {
  const int64_t rows, size;
  const std::unique_ptr<T[]> memory;
  int64_t next = 0;
  RingBuffer(int64_t rows, int64_t size) : rows(rows), size(size), memory(new T[rows * size]) {}
  T* row(int64_t index) const { return memory.get() + index % rows * size; }

  // Calls compute(index, to) for the rows from `first` to `last` that were not computed yet.
  template <class Compute>
  void fill(int64_t first, int64_t last, const Compute& compute) {
    for (next = std::max(next, first); next < last; ++next) compute(next, row(next));
  }
};

// y = convolution of the first norm's output, with y's mean and var.
template <class T>
void norm_depthwise(ffi::ThreadPool& pool, const Geometry& g, const NormLayer<T>& norm, const T* x, T* kernel,
                    const Groups& y_groups, T* y, T* mean, T* var) {
  const int64_t C = g.x.C, K = g.kernel.H, reach = g.reach(), width = g.x.W * C;
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const auto blocks = g.blocks(C);
  Sums<T> sums(y_groups);
  y_groups.for_each_part(pool, false, [&](int64_t group, int64_t part) {
    const GroupNormalizer<T> normalizer = norm.normalizer(group);
    T* const weights = kernel + norm.groups.seed(group) * K * g.kernel.W * C;
    RingBuffer<T> ring(reach, width);
    Row<T> row{{}, g.stride * C, 0, nullptr, C};
    const int64_t first = y_groups.start(group, part) / (g.y.W * C);
    const int64_t last = first + y_groups.size(part) / g.y.W;
    for (int64_t n = first; n < last; ++n) {
      const int64_t image = n / g.y.H, r = n % g.y.H, from = r * g.stride - g.top;
      if (r == 0) ring.next = 0;
      ring.fill(std::max<int64_t>(from, 0), std::min(from + reach, g.x.H), [&](int64_t index, T* to) {
        normalizer.apply(x + (image * g.x.H + index) * width, g.x.W, C, to);
      });
      T* const to = y + n * g.y.W * C;
      for (int64_t c = 0; c < C; c += chunks.size) {
        row.sources.clear(), row.channels = std::min(chunks.size, C - c), row.start = to + c;
        for (int64_t i = 0; i < K; ++i) {
          const int64_t at = from + i * g.dilation;
          if (at < 0 || at >= g.x.H) continue;
          row.sources.push_back({ring.row(at) + c, weights + i * g.kernel.W * C + c});
        }
        run_row(CONVOLVE, row, blocks);
      }
      if (n == first) set_shift(to, g.y.W, C, sums.part(group, part));
      add_powers(to, g.y.W, C, sums.part(group, part));
    }
  });
  join_moments(sums, mean, var);
}

// From dz, the gradient to the second norm's output: the gradients to x, to the first norm's parameters and
// to the kernel. `outer` is the second norm, its gradients to scale and bias already computed.
template <class T>
void norm_depthwise_gradient(ffi::ThreadPool& pool, const Geometry& g, NormLayer<T>& norm, const T* x,
                             T* kernel, const NormLayer<T>& outer, const T* y, const T* dz, T* dx, T* dscale,
                             T* dbias, T* dkernel) {
  const Groups& groups = norm.groups;
  const int64_t C = g.x.C, reach = g.reach(), taps = g.kernel.H * g.kernel.W, width = g.y.W * C;
  const Chunks chunks(C, CHUNK_BYTES / sizeof(T));
  const int64_t tap_stride = chunks.size * chunks.count, part_stride = taps * tap_stride;
  const auto phases = g.phases();
  const auto blocks = g.blocks(tap_stride);
  std::vector<T> kernel_sums(groups.count * groups.parts * part_stride);
  Sums<T> sums(groups);
  groups.for_each_part(pool, false, [&](int64_t group, int64_t part) {
    const GroupNormalizer<T> normalizer = norm.normalizer(group), outer_normalizer = outer.normalizer(group);
    T* const weights = kernel + groups.seed(group) * taps * C;
    T* const part_sums = kernel_sums.data() + (group * groups.parts + part) * part_stride;
    RingBuffer<T> ring((reach - 1) / g.stride + 1, width);
    const std::unique_ptr<T[]> h(new T[g.x.W * C]);
    Row<T> row{{}, C, 0, nullptr, g.stride * C}, product{{}, g.stride * C, 0, nullptr, C};
    const int64_t first = groups.start(group, part) / (g.x.W * C), last = first + groups.size(part) / g.x.W;
    for (int64_t n = first; n < last; ++n) {
      const int64_t image = n / g.x.H, r = n % g.x.H;
      if (r == 0) ring.next = 0;
      // Output row o meets row r with the kernel's row i where i * dilation = r + top - o * stride.
      const int64_t start = r + g.top - reach + 1, from = start > 0 ? ceil_div(start, g.stride) : 0;
      const int64_t to = std::min((r + g.top) / g.stride + 1, g.y.H);
      ring.fill(from, to, [&](int64_t index, T* dy) {
        const int64_t at = (image * g.y.H + index) * width;
        outer_normalizer.gradient(y + at, dz + at, g.y.W, C, dy);
      });
      const T* const source = x + n * g.x.W * C;
      T* const target = dx + n * g.x.W * C;
      normalizer.apply(source, g.x.W, C, h.get());
      for (int64_t c = 0; c < C; c += chunks.size) {
        row.channels = product.channels = std::min(chunks.size, C - c);
        row.sources.clear();
        for (int64_t o = from; o < to; ++o) {
          const int64_t offset = r + g.top - o * g.stride, i = offset / g.dilation;
          if (offset % g.dilation) continue;
          row.sources.push_back({ring.row(o) + c, weights + i * g.kernel.W * C + c});
          product.sources = {{h.get() + c, part_sums + i * g.kernel.W * tap_stride + c}};
          product.start = ring.row(o) + c;
          run_row(CORRELATE, product, blocks);
        }
        for (size_t phase = 0; phase < phases.size(); ++phase) {
          row.start = target + phase * C + c;
          run_row(CONVOLVE, row, phases[phase]);
        }
      }
      normalizer.add_gradient(source, target, g.x.W, C, sums.part(group, part));
    }
  });
  norm.join_gradient(sums, dscale, dbias);
  const int64_t parts = groups.per_seed * groups.parts;
  for (int64_t tap = 0; tap < g.kernel.B * taps; ++tap) {
    for (int64_t c = 0; c < C; c += chunks.size) {
      const T* from = kernel_sums.data() + tap / taps * parts * part_stride + tap % taps * tap_stride + c;
      add_parts(dkernel + tap * C + c, from, parts, part_stride, std::min(chunks.size, C - c));
    }
  }
  norm.gradient(pool, true, x, dx, dx);
}

}  // namespace
