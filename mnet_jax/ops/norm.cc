// Batch normalization with the clip behind it, and its gradient, as two XLA FFI handlers.
//
// Arrays are [..., G, M, C]: M rows of each of G groups, whose statistics are their own; the axes that vmap adds come
// first. The rows of a group are cut into parts by the shapes alone, and the parts' sums are added in order, so the
// bits do not depend on the threads.

#include <cmath>
#include <type_traits>
#include <vector>

#include "native.h"

namespace {

constexpr int ROWS = 8;                 // taken at a time, so that what is held per channel is loaded once for all
constexpr int64_t PART_SIZE = 1 << 14;  // elements that a part has at least
constexpr int64_t MOST_PARTS = 64;

// work(N, c) for vectors of N channels from c on, as wide as they fit, that together cover `begin` to `end`.
template <int N, class Work>
inline void over_channels(int64_t begin, int64_t end, const Work& work) {
  for (; begin + N <= end; begin += N) work(std::integral_constant<int, N>(), begin);
  if constexpr (N > 1) over_channels<N / 2>(begin, end, work);
}

// work(R, N, m, c) for blocks of R rows from m on and N channels from c on.
template <class T, class Work>
inline void over_rows(int64_t first, int64_t last, int64_t C, const Work& work) {
  constexpr int widest = VECTOR_BYTES / sizeof(T);
  const auto block = [&](auto R, int64_t m) {
    over_channels<widest>(0, C, [&](auto N, int64_t c) { work(R, N, m, c); });
  };
  for (; first + ROWS <= last; first += ROWS) block(std::integral_constant<int, ROWS>(), first);
  for (; first < last; ++first) block(std::integral_constant<int, 1>(), first);
}

struct Sizes {
  int64_t groups, M, C, of_one;  // groups of all seeds, and of one
  int64_t parts;
  Sizes(ffi::AnyBuffer x, ffi::AnyBuffer scale) {
    const auto sizes = x.dimensions();
    C = sizes[sizes.size() - 1], M = sizes[sizes.size() - 2];
    groups = x.element_count() / (M * C), of_one = groups * C / scale.element_count();
    parts = std::clamp<int64_t>(M * C / PART_SIZE, 1, std::min(M, MOST_PARTS));
  }
  int64_t first(int64_t part) const { return M * part / parts; }

  // work(group, part), in parallel.
  template <class Work>
  void each(ffi::ThreadPool& pool, const Work& work) const {
    run_units(pool, groups * parts, [&](int64_t unit) { work(unit / parts, unit % parts); });
  }
};

// Two sums per channel: of every part, then of the group. Those of a part start at 0.
template <class T>
struct Sums {
  const Sizes& sizes;
  std::vector<T> of_parts;
  explicit Sums(const Sizes& sizes) : sizes(sizes), of_parts(sizes.groups * sizes.parts * 2 * sizes.C) {}
  T* part(int64_t group, int64_t index) { return of_parts.data() + (group * sizes.parts + index) * 2 * sizes.C; }
  double total(int64_t group, int64_t c) {
    double sum = 0;
    for (int64_t index = 0; index < sizes.parts; ++index) sum += part(group, index)[c];
    return sum;
  }
};

template <class T, int N>
inline void add(T* to, typename Vector<T, N>::type v) {
  Vector<T, N>::store(to, Vector<T, N>::load(to) + v);
}

// What normalizes the channels of a group: (x - mean) * gain + bias, and the clip's bounds.
template <class T>
struct Affine {
  const T *mean, *gain, *bias;
  T low, high;
  template <int N>
  struct At {
    using V = typename Vector<T, N>::type;
    V mean, gain, bias, low, high;
    V operator()(V x) const { return (x - mean) * gain + bias; }
  };
  template <int N>
  At<N> at(int64_t c) const {
    using V = Vector<T, N>;
    return {V::load(mean + c), V::load(gain + c), V::load(bias + c), low + typename V::type{}, high + typename V::type{}};
  }
};

template <class T>
T inverse(T var, double eps) {
  return T(1) / std::sqrt(var + T(eps));
}

template <class T>
void normalize(ffi::ThreadPool& pool, const Sizes& sizes, const T* x, const T* scale, const T* bias, const T* low,
               const T* high, T* y, T* mean, T* var, double eps) {
  const int64_t M = sizes.M, C = sizes.C;
  Sums<T> sums(sizes);
  // Of x - pivot and its square, where the pivot is the group's first row.
  sizes.each(pool, [&](int64_t group, int64_t part) {
    const T *pivot = x + group * M * C, *from = pivot;
    T* sum = sums.part(group, part);
    over_rows<T>(sizes.first(part), sizes.first(part + 1), C, [&](auto R, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto center = V::load(pivot + c);
      typename V::type s = {}, q = {};
      for (int r = 0; r < R; ++r) {
        const auto offset = V::load(from + (m + r) * C + c) - center;
        s += offset, q += offset * offset;
      }
      add<T, N>(sum + c, s), add<T, N>(sum + C + c, q);
    });
  });
  std::vector<T> gain(sizes.groups * C);
  for (int64_t group = 0; group < sizes.groups; ++group) {
    for (int64_t c = 0; c < C; ++c) {
      const int64_t at = group * C + c;
      const double offset = sums.total(group, c) / M, square = sums.total(group, C + c) / M;
      mean[at] = x[group * M * C + c] + offset;
      var[at] = std::max(square - offset * offset, 0.0);
      gain[at] = scale[group / sizes.of_one * C + c] * inverse(var[at], eps);
    }
  }
  sizes.each(pool, [&](int64_t group, int64_t part) {
    const int64_t seed = group / sizes.of_one;
    const Affine<T> affine{mean + group * C, gain.data() + group * C, bias + seed * C, low[seed], high[seed]};
    part = sizes.parts - 1 - part;  // what was read last is still in the caches
    over_rows<T>(sizes.first(part), sizes.first(part + 1), C, [&](auto R, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto normal = affine.template at<N>(c);
      for (int r = 0; r < R; ++r) {
        const int64_t at = (group * M + m + r) * C + c;
        const auto z = normal(V::load(x + at)), raised = z < normal.low ? normal.low : z;
        V::store(y + at, raised > normal.high ? normal.high : raised);
      }
    });
  });
}

template <class T>
void gradient(ffi::ThreadPool& pool, const Sizes& sizes, const T* x, const T* dy, const T* mean, const T* var,
              const T* scale, const T* bias, const T* low, const T* high, T* dx, T* dscale, T* dbias, double eps) {
  const int64_t M = sizes.M, C = sizes.C;
  std::vector<T> gain(sizes.groups * C), slope(sizes.groups * C), level(sizes.groups * C);
  for (int64_t at = 0; at < sizes.groups * C; ++at)
    gain[at] = scale[at / C / sizes.of_one * C + at % C] * inverse(var[at], eps);
  const auto affine = [&](int64_t group) {
    const int64_t seed = group / sizes.of_one;
    return Affine<T>{mean + group * C, gain.data() + group * C, bias + seed * C, low[seed], high[seed]};
  };
  Sums<T> sums(sizes);
  // Of the gradient that the clip lets through, and of that times x - mean.
  sizes.each(pool, [&](int64_t group, int64_t part) {
    const Affine<T> own = affine(group);
    T* sum = sums.part(group, part);
    over_rows<T>(sizes.first(part), sizes.first(part + 1), C, [&](auto R, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto normal = own.template at<N>(c);
      typename V::type s = {}, q = {};
      for (int r = 0; r < R; ++r) {
        const int64_t at = (group * M + m + r) * C + c;
        const auto value = V::load(x + at), z = normal(value);
        const auto passed = (normal.low < z) & (z < normal.high) ? V::load(dy + at) : typename V::type{};
        s += passed, q += passed * (value - normal.mean);
      }
      add<T, N>(sum + c, s), add<T, N>(sum + C + c, q);
    });
  });
  std::fill_n(dscale, sizes.groups / sizes.of_one * C, T(0));
  std::fill_n(dbias, sizes.groups / sizes.of_one * C, T(0));
  for (int64_t at = 0; at < sizes.groups * C; ++at) {
    const int64_t group = at / C, c = at % C, of_seed = group / sizes.of_one * C + c;
    const T r = inverse(var[at], eps);
    const double sum = sums.total(group, c), product = sums.total(group, C + c) * r;
    dbias[of_seed] += sum, dscale[of_seed] += product;
    level[at] = sum / M * gain[at], slope[at] = product / M * r * gain[at];
  }
  sizes.each(pool, [&](int64_t group, int64_t part) {
    const Affine<T> own = affine(group);
    part = sizes.parts - 1 - part;
    over_rows<T>(sizes.first(part), sizes.first(part + 1), C, [&](auto R, auto N, int64_t m, int64_t c) {
      using V = Vector<T, N>;
      const auto normal = own.template at<N>(c);
      const auto falls = V::load(slope.data() + group * C + c), lower = V::load(level.data() + group * C + c);
      for (int r = 0; r < R; ++r) {
        const int64_t at = (group * M + m + r) * C + c;
        const auto value = V::load(x + at), z = normal(value);
        const auto passed = (normal.low < z) & (z < normal.high) ? V::load(dy + at) : typename V::type{};
        V::store(dx + at, passed * normal.gain - (value - normal.mean) * falls - lower);
      }
    });
  });
}

using In = ffi::AnyBuffer;
using Out = ffi::Result<ffi::AnyBuffer>;

template <class T>
void run_forward(ffi::ThreadPool& pool, In x, In scale, In bias, In low, In high, Out y, Out mean, Out var,
                 double eps) {
  normalize(pool, Sizes(x, scale), x.typed_data<T>(), scale.typed_data<T>(), bias.typed_data<T>(), low.typed_data<T>(),
            high.typed_data<T>(), y->typed_data<T>(), mean->typed_data<T>(), var->typed_data<T>(), eps);
}

template <class T>
void run_backward(ffi::ThreadPool& pool, In x, In dy, In mean, In var, In scale, In bias, In low, In high, Out dx,
                  Out dscale, Out dbias, double eps) {
  gradient(pool, Sizes(x, scale), x.typed_data<T>(), dy.typed_data<T>(), mean.typed_data<T>(), var.typed_data<T>(),
           scale.typed_data<T>(), bias.typed_data<T>(), low.typed_data<T>(), high.typed_data<T>(), dx->typed_data<T>(),
           dscale->typed_data<T>(), dbias->typed_data<T>(), eps);
}

ffi::Error forward(ffi::ThreadPool pool, In x, In scale, In bias, In low, In high, Out y, Out mean, Out var,
                   double eps) {
  (x.element_type() == ffi::F64 ? run_forward<double> : run_forward<float>)(pool, x, scale, bias, low, high, y, mean,
                                                                             var, eps);
  return ffi::Error::Success();
}

ffi::Error backward(ffi::ThreadPool pool, In x, In dy, In mean, In var, In scale, In bias, In low, In high, Out dx,
                    Out dscale, Out dbias, double eps) {
  (x.element_type() == ffi::F64 ? run_backward<double> : run_backward<float>)(pool, x, dy, mean, var, scale, bias, low,
                                                                               high, dx, dscale, dbias, eps);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(norm, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<double>("eps"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(norm_gradient, backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<double>("eps"));
