// The custom calls that take a sum and entries of rows with a bias, whose labels repeat from line
// to line: entries_forward_biased and entries_backward_biased. What is not said here is as in
// entries.h.
//
// A Backend has EntriesForwardBiased<Real> and EntriesBackwardBiased<T, Real>.
#ifndef JAX_RNNT_FFI_ENTRIES_BIASED_H_
#define JAX_RNNT_FFI_ENTRIES_BIASED_H_

#include <cstdint>

#include "core/entries.h"
#include "ffi/buffers.h"
#include "ffi/entries.h"
#include "ffi/rows.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// The biases (..., W) of rows.
template <typename Real>
Error MakeRowBiases(const Rows& rows, const AnyBuffer& bias, RowBiases<Real>* biases) {
  const auto dimensions = bias.dimensions();
  if (dimensions.size() == 0 || dimensions.back() != rows.V) {
    return WrongBuffer("bias", "(..., W)");
  }
  const int64_t count = Leading(dimensions, 1);
  JAX_RNNT_RETURN_IF_ERROR(Check("bias", bias, kDataType<Real>, Times({count, rows.V})));
  if (rows.rows == 0) return Error::Success();
  if (count == 0 || rows.rows % count != 0) return WrongBuffer("bias", "one for as many rows");
  *biases = {Data<const Real>(bias), rows.rows / count};
  if (!biases->IsValid()) return WrongBuffer("bias", "one for fewer than 2^31 rows");
  return Error::Success();
}

template <typename Backend>
Error EntriesForwardBiased(typename Backend::Context context, AnyBuffer logits, Int32Buffer labels,
                           Int32Buffer counts, AnyBuffer bias, AnyResult maxima, AnyResult log_sums,
                           AnyResult blank_logits, AnyResult label_logits,
                           xla::ffi::RemainingRets pick_logits, int64_t blank, int64_t tokens,
                           int64_t without_blank, int64_t without_label, Columns picks) {
  Rows rows;
  EntriesOptions options;
  JAX_RNNT_RETURN_IF_ERROR(MakeRows(logits, blank, &rows, labels, counts));
  JAX_RNNT_RETURN_IF_ERROR(MakeEntriesOptions(rows.rows, rows.V, blank, tokens, without_blank,
                                              without_label, picks, &options));
  return DispatchReals("logits", logits, [&](auto real) -> Error {
    using Real = typename decltype(real)::Type;
    RowBiases<Real> biases;
    JAX_RNNT_RETURN_IF_ERROR(MakeRowBiases(rows, bias, &biases));
    EntriesResults<Real> results;
    JAX_RNNT_RETURN_IF_ERROR(MakeEntriesResults(rows.rows, picks, maxima, log_sums, blank_logits,
                                                label_logits, pick_logits, &results));
    if (rows.rows == 0) return Error::Success();
    return Backend::template EntriesForwardBiased<Real>(
        context, rows.rows, options, Data<const Real>(logits), biases, rows.labels, results);
  });
}

template <typename Backend>
Error EntriesBackwardBiased(typename Backend::Context context, AnyBuffer logits, Int32Buffer labels,
                            Int32Buffer counts, AnyBuffer bias, AnyBuffer bounds, AnyBuffer maxima,
                            AnyBuffer log_sums, AnyBuffer sum_cotangents,
                            AnyBuffer blank_cotangents, AnyBuffer label_cotangents,
                            xla::ffi::RemainingArgs pick_cotangents, AnyResult logits_cotangents,
                            AnyResult bias_parts, int64_t blank, int64_t tokens,
                            int64_t without_blank, int64_t without_label, Columns picks) {
  Rows rows;
  EntriesOptions options;
  JAX_RNNT_RETURN_IF_ERROR(MakeRows(logits, blank, &rows, labels, counts));
  JAX_RNNT_RETURN_IF_ERROR(MakeEntriesOptions(rows.rows, rows.V, blank, tokens, without_blank,
                                              without_label, picks, &options));
  return DispatchLogits<Backend>(logits_cotangents->element_type(), [&](auto t, auto r) -> Error {
    using T = typename decltype(t)::Type;
    using Real = typename decltype(r)::Type;
    constexpr DataType kReal = kDataType<Real>;
    JAX_RNNT_RETURN_IF_ERROR(Check("logits_cotangents", *logits_cotangents,
                                   logits_cotangents->element_type(), logits.element_count()));
    JAX_RNNT_RETURN_IF_ERROR(Check("logits", logits, kReal, logits.element_count()));
    RowBiases<Real> biases;
    JAX_RNNT_RETURN_IF_ERROR(MakeRowBiases(rows, bias, &biases));
    JAX_RNNT_RETURN_IF_ERROR(Check("bounds", bounds, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("maxima", maxima, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", log_sums, kReal, rows.rows));
    EntriesCotangents<Real> cotangents;
    JAX_RNNT_RETURN_IF_ERROR(MakeEntriesCotangents(rows.rows, picks, sum_cotangents,
                                                   blank_cotangents, label_cotangents,
                                                   pick_cotangents, &cotangents));
    const int64_t parts = rows.rows == 0 ? 0 : rows.rows / biases.rows * PartsOfBias(biases.rows);
    JAX_RNNT_RETURN_IF_ERROR(Check("bias_parts", *bias_parts, kReal, Times({parts, rows.V})));
    if (rows.rows == 0) return Error::Success();
    return Backend::template EntriesBackwardBiased<T, Real>(
        context, rows.rows, options, Data<const Real>(logits), biases, rows.labels,
        Data<const Real>(bounds), Data<const Real>(maxima), Data<const Real>(log_sums), cotangents,
        Data<T>(*logits_cotangents), Data<Real>(*bias_parts));
  });
}

// Logits (..., G, R, C, W) of float32 or float64, with labels (..., G, C) and counts (..., G); a
// buffer without a shape here has that of logits without W.
template <typename Context>
auto BindEntriesForwardBiased() {
  return BindEntriesForward(BindColumns<Context>().template Arg<AnyBuffer>());  // bias (..., W)
}

template <typename Context>
auto BindEntriesBackwardBiased() {
  return BindEntriesOptions(
      BindEntriesCotangents(BindColumns<Context>()
                                .template Arg<AnyBuffer>()   // bias (..., W)
                                .template Arg<AnyBuffer>())  // bounds
          .template Ret<AnyBuffer>()                         // logits_cotangents, shaped as logits
          .template Ret<AnyBuffer>());  // bias_parts (..., PartsOfBias(G R C) W)
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_ENTRIES_BIASED_H_
