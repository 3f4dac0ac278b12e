// The custom calls, for any backend: each handler checks its buffers and calls one function.
//
// A Backend names what differs between devices:
//   Context                      what XLA hands to a handler (a thread pool, a stream)
//   BFloat16, Float16            its 16-bit types
//   PickForward, PickBackward, LatticeCost, LatticeForward, LatticeBackward
//                                the functions, returning Error
//   CostScratch, WalkScratch     what the lattice's need of scratch, as far as the backend has any
// All leading dimensions of a buffer are batch, and nothing depends on the values of an array: a
// shard of an uneven batch arrives with undefined rows.
#ifndef JAX_RNNT_FFI_HANDLERS_H_
#define JAX_RNNT_FFI_HANDLERS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>

#include "core/lattice_layout.h"
#include "core/row_label.h"
#include "core/scaled.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

using xla::ffi::AnyBuffer;
using xla::ffi::DataType;
using xla::ffi::Error;
using xla::ffi::ErrorCode;
using Int32Buffer = xla::ffi::Buffer<xla::ffi::S32>;
using AnyResult = xla::ffi::Result<AnyBuffer>;

inline Error WrongBuffer(const char* name, const std::string& expected) {
  return Error(ErrorCode::kInvalidArgument,
               "jax_rnnt: buffer " + std::string(name) + " must be " + expected + ".");
}

// The product of sizes, which the sizes of an array without elements may take beyond 64 bits: then
// a number that no array has elements. Zero if any size is.
inline int64_t Times(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) {
    if (size == 0) return 0;
    if (__builtin_mul_overflow(product, size, &product)) {
      product = std::numeric_limits<int64_t>::max();
    }
  }
  return product;
}

// An error unless the buffer has this type and number of elements.
template <typename Buffer>
Error Check(const char* name, Buffer& buffer, DataType dtype, int64_t count) {
  if (buffer.element_type() != dtype) return WrongBuffer(name, "of another type");
  if (static_cast<int64_t>(buffer.element_count()) != count) {
    return WrongBuffer(name, "of " + std::to_string(count) + " elements, not " +
                                 std::to_string(buffer.element_count()));
  }
  return Error::Success();
}

#define JAX_RNNT_RETURN_IF_ERROR(expression)                       \
  do {                                                             \
    if (Error error = (expression); error.failure()) return error; \
  } while (false)

template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls body(TypeTag<T>, TypeTag<Real>) for the type of logits and the type that they are summed
// in.
template <typename Backend, typename Body>
Error DispatchLogits(DataType dtype, const Body& body) {
  switch (dtype) {
    case DataType::F32:
      return body(TypeTag<float>(), TypeTag<float>());
    case DataType::BF16:
      return body(TypeTag<typename Backend::BFloat16>(), TypeTag<float>());
    case DataType::F16:
      return body(TypeTag<typename Backend::Float16>(), TypeTag<float>());
    case DataType::F64:
      return body(TypeTag<double>(), TypeTag<double>());
    default:
      return WrongBuffer("logits", "float32, bfloat16, float16 or float64");
  }
}

template <typename Body>
Error DispatchArcs(DataType dtype, const Body& body) {
  switch (dtype) {
    case DataType::F32:
      return body(TypeTag<float>());
    case DataType::F64:
      return body(TypeTag<double>());
    default:
      return WrongBuffer("blank_log_probs", "float32 or float64");
  }
}

template <typename Real>
constexpr DataType kDataType = sizeof(Real) == sizeof(float) ? DataType::F32 : DataType::F64;

// The type of what one call leaves for another, pair by pair.
template <typename Real>
constexpr DataType kBits = sizeof(Real) == sizeof(float) ? DataType::U32 : DataType::U64;

// The pointer of a buffer whose type has been checked.
template <typename T, typename Buffer>
T* Data(Buffer& buffer) {
  return reinterpret_cast<T*>(buffer.untyped_data());
}

// Rows of V logits with their labels; V and the blank's index are 32-bit numbers for the kernels.
struct Rows {
  int64_t rows;
  int64_t V;
  RowLabels labels;
};

inline Error CheckRows(const AnyBuffer& logits, int64_t blank, const Rows& rows) {
  if (static_cast<int64_t>(logits.element_count()) != Times({rows.rows, rows.V})) {
    return WrongBuffer("logits", "as many rows as there are labels");
  }
  if (rows.V > std::numeric_limits<int32_t>::max() || blank < 0 ||
      (rows.rows > 0 && blank >= rows.V)) {
    return Error(ErrorCode::kInvalidArgument, "jax_rnnt: blank must be in [0, V), V below 2^31.");
  }
  return Error::Success();
}

// Labels (...) of logits (..., V), one for each row.
inline Error MakeRows(const AnyBuffer& logits, int64_t blank, Rows* rows,
                      const Int32Buffer& labels) {
  const auto dimensions = logits.dimensions();
  if (dimensions.size() == 0) return WrongBuffer("logits", "of at least one dimension");
  rows->rows = labels.element_count();
  rows->V = dimensions.back();
  rows->labels.labels = labels.typed_data();
  return CheckRows(logits, blank, *rows);
}

// Labels (..., C) and counts (...) of logits (..., R, C, V).
inline Error MakeRows(const AnyBuffer& logits, int64_t blank, Rows* rows, const Int32Buffer& labels,
                      const Int32Buffer& counts) {
  const auto dimensions = logits.dimensions();
  if (dimensions.size() < 3) return WrongBuffer("logits", "(..., R, C, V)");
  const auto shape = dimensions.last(3);
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  if (shape[0] > kLimit || shape[1] > kLimit) {
    return WrongBuffer("logits", "of fewer than 2^31 lines and columns");
  }
  const int64_t groups = counts.element_count();
  JAX_RNNT_RETURN_IF_ERROR(Check("labels", labels, DataType::S32, Times({groups, shape[1]})));
  rows->rows = Times({groups, shape[0], shape[1]});
  rows->V = shape[2];
  rows->labels = {labels.typed_data(), counts.typed_data(), shape[1], shape[0]};
  return CheckRows(logits, blank, *rows);
}

// Labels: the buffers of one of the MakeRows.
template <typename Backend, typename... Labels>
Error PickForward(typename Backend::Context context, AnyBuffer logits, Labels... labels,
                  AnyResult blank_log_probs, AnyResult label_log_probs, AnyResult maxima,
                  AnyResult log_sums, int64_t blank) {
  Rows rows;
  JAX_RNNT_RETURN_IF_ERROR(MakeRows(logits, blank, &rows, labels...));
  return DispatchLogits<Backend>(logits.element_type(), [&](auto t, auto real) -> Error {
    using T = typename decltype(t)::Type;
    using Real = typename decltype(real)::Type;
    constexpr DataType kReal = kDataType<Real>;
    JAX_RNNT_RETURN_IF_ERROR(Check("blank_log_probs", *blank_log_probs, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", *label_log_probs, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("maxima", *maxima, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", *log_sums, kReal, rows.rows));
    if (rows.rows == 0) return Error::Success();
    return Backend::template PickForward<T, Real>(
        context, rows.rows, rows.V, blank, Data<const T>(logits), rows.labels,
        Data<Real>(*blank_log_probs), Data<Real>(*label_log_probs), Data<Real>(*maxima),
        Data<Real>(*log_sums));
  });
}

template <typename Backend, typename... Labels>
Error PickBackward(typename Backend::Context context, AnyBuffer logits, Labels... labels,
                   AnyBuffer maxima, AnyBuffer log_sums, AnyBuffer blank_cotangents,
                   AnyBuffer label_cotangents, AnyResult logits_cotangents, int64_t blank) {
  Rows rows;
  JAX_RNNT_RETURN_IF_ERROR(MakeRows(logits, blank, &rows, labels...));
  JAX_RNNT_RETURN_IF_ERROR(Check("logits_cotangents", *logits_cotangents, logits.element_type(),
                                 logits.element_count()));
  return DispatchLogits<Backend>(logits.element_type(), [&](auto t, auto real) -> Error {
    using T = typename decltype(t)::Type;
    using Real = typename decltype(real)::Type;
    constexpr DataType kReal = kDataType<Real>;
    JAX_RNNT_RETURN_IF_ERROR(Check("maxima", maxima, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", log_sums, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("blank_cotangents", blank_cotangents, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("label_cotangents", label_cotangents, kReal, rows.rows));
    if (rows.rows == 0) return Error::Success();
    return Backend::template PickBackward<T, Real>(
        context, rows.rows, rows.V, blank, Data<const T>(logits), rows.labels,
        Data<const Real>(maxima), Data<const Real>(log_sums), Data<const Real>(blank_cotangents),
        Data<const Real>(label_cotangents), Data<T>(*logits_cotangents));
  });
}

// Kernels count bytes of a few rows in 32 bits.
constexpr int64_t kMaxColumns = (int64_t{1} << 28) - 1;

// The layout of arcs (..., T, U) or, with offsets, of arcs (..., S) and lengths (..., N).
inline Error MakeLayout(const AnyBuffer& arcs, const Int32Buffer& frames_lengths,
                        const Int32Buffer& labels_lengths, const Int32Buffer* offsets,
                        int64_t max_labels, LatticeLayout* layout) {
  const auto dimensions = arcs.dimensions();
  layout->sequences = frames_lengths.element_count();
  layout->frames_lengths = frames_lengths.typed_data();
  layout->labels_lengths = labels_lengths.typed_data();
  JAX_RNNT_RETURN_IF_ERROR(
      Check("labels_lengths", labels_lengths, DataType::S32, layout->sequences));
  if (offsets == nullptr) {
    if (dimensions.size() < 2) return WrongBuffer("blank_log_probs", "(..., T, U)");
    layout->max_frames = dimensions[dimensions.size() - 2];
    layout->max_columns = dimensions.back();
    const int64_t cells = Times({layout->sequences, layout->max_frames, layout->max_columns});
    if (static_cast<int64_t>(arcs.element_count()) != cells) {
      return WrongBuffer("blank_log_probs", "one (T, U) for each length");
    }
  } else {
    const auto batch = frames_lengths.dimensions();
    if (dimensions.size() < 1 || batch.size() < 1) {
      return WrongBuffer("blank_log_probs", "(..., S), with lengths (..., N)");
    }
    JAX_RNNT_RETURN_IF_ERROR(Check("offsets", *offsets, DataType::S32, layout->sequences));
    layout->max_frames = dimensions.back();
    layout->max_columns = std::min(max_labels, kMaxColumns - 1) + 1;
    // Without sequences the buffer may have no address, and nobody reads it.
    static constexpr int32_t kNoOffsets = 0;
    layout->offsets = layout->sequences == 0 ? &kNoOffsets : offsets->typed_data();
    layout->rows_per_group = dimensions.back();
    layout->sequences_per_group = batch.back();
    const int64_t groups =
        layout->sequences == 0 ? 0 : layout->sequences / layout->sequences_per_group;
    if (groups > 0 &&
        static_cast<int64_t>(arcs.element_count()) != Times({groups, layout->rows_per_group})) {
      return WrongBuffer("blank_log_probs", "one (S) for each (N) of the lengths");
    }
  }
  if (layout->max_frames > std::numeric_limits<int32_t>::max() ||
      layout->max_columns > kMaxColumns || layout->max_columns < 1) {
    return WrongBuffer("blank_log_probs", "of fewer than 2^31 frames and 2^28 columns");
  }
  return Error::Success();
}

// How many Scaled numbers each scratch buffer must hold.
template <size_t kCount>
using ScratchCounts = std::array<std::pair<AnyBuffer*, int64_t>, kCount>;

// An error unless each buffer has room for so many Scaled numbers.
template <typename Counts>
Error CheckScratch(DataType dtype, const Counts& counts) {
  for (const auto& [buffer, count] : counts) {
    JAX_RNNT_RETURN_IF_ERROR(Check("scratch", *buffer, dtype, Times({2, count})));
  }
  return Error::Success();
}

// The lattice's calls behind their layout. Scratch: the backend's own buffers, of which it says how
// many Scaled numbers each holds.
template <typename Backend>
struct LatticeCost {
  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const LatticeLayout& layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyResult costs,
                   Scratch... scratch) {
    return DispatchArcs(blank_log_probs.element_type(), [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      const int64_t cells = blank_log_probs.element_count();
      JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", label_log_probs, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("costs", *costs, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(
          CheckScratch(kReal, Backend::CostScratch(cells, layout, *scratch...)));
      if (layout.sequences == 0) return Error::Success();
      return Backend::template LatticeCost<Real>(
          context, layout, Data<const Real>(blank_log_probs), Data<const Real>(label_log_probs),
          Data<Real>(*costs), Data<Scaled<Real>>(*scratch)...);
    });
  }
};

template <typename Backend>
struct LatticeForward {
  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const LatticeLayout& layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyResult costs,
                   AnyResult values, AnyResult totals, Scratch... scratch) {
    return DispatchArcs(blank_log_probs.element_type(), [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      const int64_t cells = blank_log_probs.element_count();
      JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", label_log_probs, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("costs", *costs, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(Check("values", *values, kBits<Real>, 2 * cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("totals", *totals, kBits<Real>, 2 * layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(
          CheckScratch(kReal, Backend::WalkScratch(cells, layout, *scratch...)));
      if (layout.sequences == 0) return Error::Success();
      return Backend::template LatticeForward<Real>(
          context, layout, Data<const Real>(blank_log_probs), Data<const Real>(label_log_probs),
          Data<Real>(*costs), Data<Scaled<Real>>(*values), Data<Scaled<Real>>(*totals),
          Data<Scaled<Real>>(*scratch)...);
    });
  }
};

template <typename Backend>
struct LatticeBackward {
  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const LatticeLayout& layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyBuffer values,
                   AnyBuffer totals, AnyBuffer cotangents, AnyResult blank_cotangents,
                   AnyResult label_cotangents, Scratch... scratch) {
    return DispatchArcs(blank_log_probs.element_type(), [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      const int64_t cells = blank_log_probs.element_count();
      JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", label_log_probs, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("values", values, kBits<Real>, 2 * cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("totals", totals, kBits<Real>, 2 * layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(Check("cotangents", cotangents, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(Check("blank_cotangents", *blank_cotangents, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("label_cotangents", *label_cotangents, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(
          CheckScratch(kReal, Backend::WalkScratch(cells, layout, *scratch...)));
      if (layout.sequences == 0 && !layout.compact()) return Error::Success();
      return Backend::template LatticeBackward<Real>(
          context, layout, cells, Data<const Real>(blank_log_probs),
          Data<const Real>(label_log_probs), Data<const Scaled<Real>>(values),
          Data<const Scaled<Real>>(totals), Data<const Real>(cotangents),
          Data<Real>(*blank_cotangents), Data<Real>(*label_cotangents),
          Data<Scaled<Real>>(*scratch)...);
    });
  }
};

// A lattice call on arcs (..., T, U).
template <typename Call>
struct Padded {
  template <typename Context, typename... Rest>
  Error operator()(Context context, AnyBuffer blank_log_probs, AnyBuffer label_log_probs,
                   Int32Buffer frames_lengths, Int32Buffer labels_lengths, Rest... rest) const {
    LatticeLayout layout;
    JAX_RNNT_RETURN_IF_ERROR(
        MakeLayout(blank_log_probs, frames_lengths, labels_lengths, nullptr, 0, &layout));
    return Call::Run(context, layout, blank_log_probs, label_log_probs, rest...);
  }
};

// A lattice call on arcs (..., S).
template <typename Call>
struct Compact {
  template <typename Context, typename... Rest>
  Error operator()(Context context, int64_t max_labels, AnyBuffer blank_log_probs,
                   AnyBuffer label_log_probs, Int32Buffer frames_lengths,
                   Int32Buffer labels_lengths, Int32Buffer offsets, Rest... rest) const {
    LatticeLayout layout;
    JAX_RNNT_RETURN_IF_ERROR(
        MakeLayout(blank_log_probs, frames_lengths, labels_lengths, &offsets, max_labels, &layout));
    return Call::Run(context, layout, blank_log_probs, label_log_probs, rest...);
  }
};

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_HANDLERS_H_
