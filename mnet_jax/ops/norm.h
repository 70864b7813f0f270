// Batch normalization with the clip behind it, and its gradient.
//
// An array is groups of M positions of C channels; each group is normalized by its own statistics. The
// positions of a group are cut into parts. Passes over an array alternate in direction, so that a pass begins
// with what the pass before it left in the caches.

#pragma once

#include <cmath>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "vector.h"

namespace {

constexpr int BLOCK = 8;  // positions at a time, for which vectors of parameters are loaded once
constexpr int64_t MIN_PART_ELEMENTS = 1 << 15;

// `count` groups, `per_seed` of them for each seed, in parts that are multiples of `multiple` positions.
struct Groups {
  int64_t count, per_seed, M, C, multiple, parts;
  Groups(int64_t count, int64_t per_seed, int64_t M, int64_t C, int64_t multiple = 1)
      : count(count), per_seed(per_seed), M(M), C(C), multiple(multiple) {
    parts = std::clamp<int64_t>(M * C / MIN_PART_ELEMENTS, 1, std::min(M / multiple, MAX_PARTS));
  }
  int64_t seed(int64_t group) const { return group / per_seed; }
  int64_t first(int64_t part) const { return M / multiple * part / parts * multiple; }
  int64_t size(int64_t part) const { return first(part + 1) - first(part); }
  // The offset of a part in the array, in elements.
  int64_t start(int64_t group, int64_t part) const { return (group * M + first(part)) * C; }

  // body(group, part) for all, in parallel.
  template <class Body>
  void for_each_part(ffi::ThreadPool& pool, bool backward, const Body& body) const {
    const int64_t tasks = count * parts;
    parallel_for(pool, tasks, [&](int64_t task) {
      const int64_t index = backward ? tasks - 1 - task : task;
      body(index / parts, index % parts);
    });
  }
};

// body(N, c) for vectors of N channels from c on, as wide as fit, which cover the channels from `begin` to
// `end`.
template <int N, class Body>
inline void over_channels(int64_t begin, int64_t end, const Body& body) {
  for (; begin + N <= end; begin += N) body(std::integral_constant<int, N>(), begin);
  if constexpr (N > 1) over_channels<N / 2>(begin, end, body);
}

// body(Q, N, m, c) for blocks of Q positions from m on and N channels from c on; Q is a constant but for the
// last.
template <class T, class Body>
inline void over_positions(int64_t size, int64_t C, const Body& body) {
  const auto block = [&](auto Q, int64_t m) {
    over_channels<VECTOR_BYTES / sizeof(T)>(0, C, [&](auto N, int64_t c) { body(Q, N, m, c); });
  };
  int64_t m = 0;
  for (; m + BLOCK <= size; m += BLOCK) block(std::integral_constant<int, BLOCK>(), m);
  if (m < size) block(static_cast<int>(size - m), m);
}

// Loads a vector and prefetches the one `ahead` elements further on: the processor does not foresee the jumps
// between blocks of positions.
template <class T, int N>
inline typename Vector<T, N>::type stream(const T* from, int64_t ahead) {
  __builtin_prefetch(from + ahead);
  return Vector<T, N>::load(from);
}

template <class T, int N>
inline void add(T* to, typename Vector<T, N>::type v) {
  Vector<T, N>::store(to, Vector<T, N>::load(to) + v);
}

// Three rows of C numbers for each part: two sums, and the shift K that `add_powers` subtracts, near the
// part's mean.
template <class T>
struct Sums {
  const Groups& groups;
  std::vector<T> parts;
  explicit Sums(const Groups& groups) : groups(groups), parts(groups.count * groups.parts * 3 * groups.C) {}
  T* part(int64_t group, int64_t index) {
    return parts.data() + (group * groups.parts + index) * 3 * groups.C;
  }
};

// K = the mean of the first positions.
template <class T>
void set_shift(const T* x, int64_t size, int64_t C, T* sums) {
  const int64_t few = std::min<int64_t>(size, BLOCK);
  for (int64_t m = 0; m < few; ++m)
    for (int64_t c = 0; c < C; ++c) sums[2 * C + c] += x[m * C + c] / few;
}

// Adds x - K and (x - K)^2 to the two sums.
template <class T>
void add_powers(const T* x, int64_t size, int64_t C, T* sums) {
  const T* const shift = sums + 2 * C;
  over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
    using V = Vector<T, N>;
    const auto K = V::load(shift + c);
    typename V::type first = {}, second = {};
    for (int q = 0; q < Q; ++q) {
      const auto offset = stream<T, N>(x + (m + q) * C + c, BLOCK * C) - K;
      first += offset, second += offset * offset;
    }
    add<T, N>(sums + c, first), add<T, N>(sums + C + c, second);
  });
}

// Mean and variance of the groups from the parts' sums of powers (Chan et al. 1983, equation 2.1).
template <class T>
void join_moments(Sums<T>& sums, T* mean, T* var) {
  const Groups& groups = sums.groups;
  for (int64_t at = 0; at < groups.count * groups.C; ++at) {
    const int64_t group = at / groups.C, c = at % groups.C;
    double joined_mean = 0, squares = 0, joined = 0;  // of the parts so far
    for (int64_t part = 0; part < groups.parts; ++part) {
      const T* sum = sums.part(group, part);
      const double n = groups.size(part), offset = sum[c] / n;
      const double difference = sum[2 * groups.C + c] + offset - joined_mean;
      squares += sum[groups.C + c] - sum[c] * offset + difference * difference * joined * n / (joined + n);
      joined_mean += difference * n / (joined + n);
      joined += n;
    }
    mean[at] = joined_mean, var[at] = std::max(squares / groups.M, 0.0);
  }
}

template <class T>
void moments(ffi::ThreadPool& pool, const Groups& groups, const T* x, T* mean, T* var) {
  Sums<T> sums(groups);
  groups.for_each_part(pool, true, [&](int64_t group, int64_t part) {
    const T* from = x + groups.start(group, part);
    set_shift(from, groups.size(part), groups.C, sums.part(group, part));
    add_powers(from, groups.size(part), groups.C, sums.part(group, part));
  });
  join_moments(sums, mean, var);
}

// One group's layer: y = clip((x - mean) * gain + bias), and its gradient. With g, the gradient dy where the
// clip lets it through and 0 elsewhere, dx = g * gain - (x - mean) * correlation - mean_gradient. Arrays are
// [C].
template <class T>
struct GroupNormalizer {
  const T *mean, *gain, *bias, *correlation, *mean_gradient;
  T low, high;

  // The parameters of N channels.
  template <int N>
  struct Channels {
    using V = typename Vector<T, N>::type;
    V mean, gain, bias, low, high;
    V clip(V x) const {
      const V z = (x - mean) * gain + bias, raised = z < low ? low : z;
      return raised > high ? high : raised;
    }
    V masked_gradient(V x, V dy) const {
      const V z = (x - mean) * gain + bias;
      return (low < z) & (z < high) ? dy : V{};
    }
  };
  template <int N>
  Channels<N> channels(int64_t c) const {
    using V = Vector<T, N>;
    const typename V::type zero = {};
    return {V::load(mean + c), V::load(gain + c), V::load(bias + c), low + zero, high + zero};
  }

  void apply(const T* x, int64_t size, int64_t C, T* y) const {
    over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto norm = channels<N>(c);
      for (int q = 0; q < Q; ++q) {
        const int64_t at = (m + q) * C + c;
        V::store(y + at, norm.clip(stream<T, N>(x + at, BLOCK * C)));
      }
    });
  }

  // Adds g and g * (x - mean) to the two sums.
  void add_gradient(const T* x, const T* dy, int64_t size, int64_t C, T* sums) const {
    over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto norm = channels<N>(c);
      typename V::type first = {}, second = {};
      for (int q = 0; q < Q; ++q) {
        const int64_t at = (m + q) * C + c;
        const auto value = stream<T, N>(x + at, BLOCK * C);
        const auto g = norm.masked_gradient(value, stream<T, N>(dy + at, BLOCK * C));
        first += g, second += g * (value - norm.mean);
      }
      add<T, N>(sums + c, first), add<T, N>(sums + C + c, second);
    });
  }

  // dx may be dy.
  void gradient(const T* x, const T* dy, int64_t size, int64_t C, T* dx) const {
    over_positions<T>(size, C, [&](auto Q, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto norm = channels<N>(c);
      const auto slope = V::load(correlation + c), level = V::load(mean_gradient + c);
      for (int q = 0; q < Q; ++q) {
        const int64_t at = (m + q) * C + c;
        const auto value = stream<T, N>(x + at, BLOCK * C);
        const auto g = norm.masked_gradient(value, stream<T, N>(dy + at, BLOCK * C));
        V::store(dx + at, g * norm.gain - (value - norm.mean) * slope - level);
      }
    });
  }
};

// The layer of all groups. mean and var are [groups, C], scale and bias [seeds, C], low and high [seeds].
template <class T>
struct NormLayer {
  const Groups& groups;
  const T *mean, *var, *bias, *low, *high;
  double eps;
  std::vector<T> gain, correlation, mean_gradient;  // [groups, C]

  NormLayer(const Groups& groups, const T* mean, const T* var, const T* scale, const T* bias, const T* low,
            const T* high, double eps)
      : groups(groups), mean(mean), var(var), bias(bias), low(low), high(high), eps(eps),
        gain(groups.count * groups.C), correlation(gain.size()), mean_gradient(gain.size()) {
    for (int64_t group = 0, at = 0; group < groups.count; ++group)
      for (int64_t c = 0; c < groups.C; ++c, ++at)
        gain[at] = scale[groups.seed(group) * groups.C + c] * inverse_deviation(at);
  }
  T inverse_deviation(int64_t at) const { return T(1) / std::sqrt(var[at] + T(eps)); }

  GroupNormalizer<T> normalizer(int64_t group) const {
    const int64_t at = group * groups.C, seed = groups.seed(group);
    return {mean + at, gain.data() + at, bias + seed * groups.C, correlation.data() + at,
            mean_gradient.data() + at, low[seed], high[seed]};
  }

  void apply(ffi::ThreadPool& pool, const T* x, T* y) const {
    groups.for_each_part(pool, false, [&](int64_t group, int64_t part) {
      const int64_t start = groups.start(group, part);
      normalizer(group).apply(x + start, groups.size(part), groups.C, y + start);
    });
  }

  // From the sums of `add_gradient`: the gradients to scale and bias, and the two terms that the gradient to
  // x takes.
  void join_gradient(Sums<T>& sums, T* dscale, T* dbias) {
    const int64_t C = groups.C;
    std::fill_n(dscale, groups.count / groups.per_seed * C, T(0));
    std::fill_n(dbias, groups.count / groups.per_seed * C, T(0));
    for (int64_t at = 0; at < groups.count * C; ++at) {
      const int64_t group = at / C, c = at % C, seed_channel = groups.seed(group) * C + c;
      double first = 0, second = 0;
      for (int64_t part = 0; part < groups.parts; ++part) {
        first += sums.part(group, part)[c], second += sums.part(group, part)[C + c];
      }
      const T r = inverse_deviation(at);
      dbias[seed_channel] += first, dscale[seed_channel] += second * r;
      mean_gradient[at] = first / groups.M * gain[at], correlation[at] = second * r / groups.M * r * gain[at];
    }
  }

  void add_gradient(ffi::ThreadPool& pool, const T* x, const T* dy, T* dscale, T* dbias) {
    Sums<T> sums(groups);
    groups.for_each_part(pool, true, [&](int64_t group, int64_t part) {
      const int64_t start = groups.start(group, part);
      T* const part_sums = sums.part(group, part);
      normalizer(group).add_gradient(x + start, dy + start, groups.size(part), groups.C, part_sums);
    });
    join_gradient(sums, dscale, dbias);
  }

  void gradient(ffi::ThreadPool& pool, bool backward, const T* x, const T* dy, T* dx) const {
    groups.for_each_part(pool, backward, [&](int64_t group, int64_t part) {
      const int64_t start = groups.start(group, part);
      normalizer(group).gradient(x + start, dy + start, groups.size(part), groups.C, dx + start);
    });
  }
};

}  // namespace
