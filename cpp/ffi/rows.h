// The custom calls over rows of logits: pick_forward and pick_backward, with a label for each row,
// and pick_forward_columns and pick_backward_columns, with labels that repeat from line to line.
//
// A Backend has PickForward<T, Real> and PickBackward<T, Real>.
#ifndef JAX_RNNT_FFI_ROWS_H_
#define JAX_RNNT_FFI_ROWS_H_

#include <cstdint>
#include <limits>
#include <utility>

#include "core/row_label.h"
#include "ffi/buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// Calls body(TypeTag<T>(), TypeTag<Real>()) for logits of T, whose rows are summed in Real.
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

// Rows of V logits with their labels. Kernels take V and the blank's index as 32-bit numbers.
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

// The first operands of every call over rows, with labels by row or by column (core/row_label.h).
template <typename Context>
auto BindRows() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()     // logits (..., V)
      .template Arg<Int32Buffer>();  // labels (...)
}

template <typename Context>
auto BindColumns() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()     // logits (..., R, C, V)
      .template Arg<Int32Buffer>()   // labels (..., C)
      .template Arg<Int32Buffer>();  // counts (...)
}

// `labels` are the label buffers that one of the two MakeRows takes.
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

// `rows` is BindRows() or BindColumns(). A buffer without a shape here has that of logits without
// V.
template <typename Rows>
auto BindPickForward(Rows rows) {
  return std::move(rows)
      .template Ret<AnyBuffer>()  // blank_log_probs
      .template Ret<AnyBuffer>()  // label_log_probs
      .template Ret<AnyBuffer>()  // maxima
      .template Ret<AnyBuffer>()  // log_sums
      .template Attr<int64_t>("blank");
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

template <typename Rows>
auto BindPickBackward(Rows rows) {
  return std::move(rows)
      .template Arg<AnyBuffer>()  // maxima
      .template Arg<AnyBuffer>()  // log_sums
      .template Arg<AnyBuffer>()  // blank_cotangents
      .template Arg<AnyBuffer>()  // label_cotangents
      .template Ret<AnyBuffer>()  // logits_cotangents, shaped as logits
      .template Attr<int64_t>("blank");
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_ROWS_H_
