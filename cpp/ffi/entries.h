// The custom calls that take a sum and entries of rows: entries_forward and entries_backward, with
// a label for each row, and entries_forward_columns and entries_backward_columns, with labels that
// repeat from line to line. core/entries.h says what the attributes mean.
//
// A Backend has EntriesForward<T, Real> and EntriesBackward<T, Real>.
#ifndef JAX_RNNT_FFI_ENTRIES_H_
#define JAX_RNNT_FFI_ENTRIES_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "core/entries.h"
#include "ffi/buffers.h"
#include "ffi/rows.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

using Columns = xla::ffi::Span<const int64_t>;

// The options that the attributes give for this many rows of W logits.
inline Error MakeEntriesOptions(int64_t rows, int64_t W, int64_t blank, int64_t tokens,
                                int64_t without_blank, int64_t without_label, const Columns& picks,
                                EntriesOptions* options) {
  if (picks.size() > kMaxPicks) {
    return Error(ErrorCode::kInvalidArgument,
                 "jax_rnnt: at most " + std::to_string(kMaxPicks) + " picks.");
  }
  if ((without_blank | without_label | 1) != 1) {
    return Error(ErrorCode::kInvalidArgument,
                 "jax_rnnt: without_blank and without_label must be 0 or 1.");
  }
  // The width of rows that do not exist may be 0.
  if (rows == 0) return Error::Success();
  bool is_valid = tokens <= W && blank >= 0 && blank < tokens;
  for (int64_t pick : picks) is_valid &= pick >= 0 && pick < W;
  if (!is_valid) {
    return Error(ErrorCode::kInvalidArgument,
                 "jax_rnnt: blank must be in [0, V), picks in [0, W), V at most W.");
  }
  options->width = static_cast<int32_t>(W);
  options->tokens = static_cast<int32_t>(tokens);
  options->blank = static_cast<int32_t>(blank);
  options->without_blank = without_blank != 0;
  options->without_label = without_label != 0;
  options->pick_count = static_cast<int32_t>(picks.size());
  std::copy(picks.begin(), picks.end(), options->picks);
  return Error::Success();
}

// The arrays of results, each of as many numbers as there are rows.
template <typename Real>
Error MakeEntriesResults(int64_t rows, const Columns& picks, AnyResult& maxima, AnyResult& log_sums,
                         AnyResult& blank_logits, AnyResult& label_logits,
                         xla::ffi::RemainingRets& pick_logits, EntriesResults<Real>* results) {
  constexpr DataType kReal = kDataType<Real>;
  if (pick_logits.size() != picks.size()) return WrongBuffer("pick_logits", "one for each pick");
  JAX_RNNT_RETURN_IF_ERROR(Check("maxima", *maxima, kReal, rows));
  JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", *log_sums, kReal, rows));
  JAX_RNNT_RETURN_IF_ERROR(Check("blank_logits", *blank_logits, kReal, rows));
  JAX_RNNT_RETURN_IF_ERROR(Check("label_logits", *label_logits, kReal, rows));
  *results = {Data<Real>(*maxima),
              Data<Real>(*log_sums),
              Data<Real>(*blank_logits),
              Data<Real>(*label_logits),
              {}};
  for (size_t i = 0; i < picks.size(); ++i) {
    auto pick = pick_logits.get<AnyBuffer>(i);
    if (!pick.has_value()) return pick.error();
    JAX_RNNT_RETURN_IF_ERROR(Check("pick_logits", **pick, kReal, rows));
    results->pick_logits[i] = Data<Real>(**pick);
  }
  return Error::Success();
}

// The arrays of cotangents, likewise.
template <typename Real>
Error MakeEntriesCotangents(int64_t rows, const Columns& picks, const AnyBuffer& sum_cotangents,
                            const AnyBuffer& blank_cotangents, const AnyBuffer& label_cotangents,
                            const xla::ffi::RemainingArgs& pick_cotangents,
                            EntriesCotangents<Real>* cotangents) {
  constexpr DataType kReal = kDataType<Real>;
  if (pick_cotangents.size() != picks.size()) {
    return WrongBuffer("pick_cotangents", "one for each pick");
  }
  JAX_RNNT_RETURN_IF_ERROR(Check("sum_cotangents", sum_cotangents, kReal, rows));
  JAX_RNNT_RETURN_IF_ERROR(Check("blank_cotangents", blank_cotangents, kReal, rows));
  JAX_RNNT_RETURN_IF_ERROR(Check("label_cotangents", label_cotangents, kReal, rows));
  *cotangents = {Data<const Real>(sum_cotangents),
                 Data<const Real>(blank_cotangents),
                 Data<const Real>(label_cotangents),
                 {}};
  for (size_t i = 0; i < picks.size(); ++i) {
    auto pick = pick_cotangents.get<AnyBuffer>(i);
    if (!pick.has_value()) return pick.error();
    JAX_RNNT_RETURN_IF_ERROR(Check("pick_cotangents", *pick, kReal, rows));
    cotangents->picks[i] = Data<const Real>(*pick);
  }
  return Error::Success();
}

// `labels` are the label buffers that one of the two MakeRows takes.
template <typename Backend, typename... Labels>
Error EntriesForward(typename Backend::Context context, AnyBuffer logits, Labels... labels,
                     AnyResult maxima, AnyResult log_sums, AnyResult blank_logits,
                     AnyResult label_logits, xla::ffi::RemainingRets pick_logits, int64_t blank,
                     int64_t tokens, int64_t without_blank, int64_t without_label, Columns picks) {
  Rows rows;
  EntriesOptions options;
  JAX_RNNT_RETURN_IF_ERROR(MakeRows(logits, blank, &rows, labels...));
  JAX_RNNT_RETURN_IF_ERROR(MakeEntriesOptions(rows.rows, rows.V, blank, tokens, without_blank,
                                              without_label, picks, &options));
  return DispatchLogits<Backend>(logits.element_type(), [&](auto t, auto real) -> Error {
    using T = typename decltype(t)::Type;
    using Real = typename decltype(real)::Type;
    EntriesResults<Real> results;
    JAX_RNNT_RETURN_IF_ERROR(MakeEntriesResults(rows.rows, picks, maxima, log_sums, blank_logits,
                                                label_logits, pick_logits, &results));
    if (rows.rows == 0) return Error::Success();
    return Backend::template EntriesForward<T, Real>(context, rows.rows, options,
                                                     Data<const T>(logits), rows.labels, results);
  });
}

// `binding` is that of the buffers.
template <typename Binding>
auto BindEntriesOptions(Binding binding) {
  return std::move(binding)
      .template Attr<int64_t>("blank")
      .template Attr<int64_t>("tokens")
      .template Attr<int64_t>("without_blank")  // 0 or 1
      .template Attr<int64_t>("without_label")  // 0 or 1
      .template Attr<Columns>("picks");
}

// `rows` is BindRows() or BindColumns(), with W for V. A buffer without a shape here has that of
// logits without W.
template <typename Rows>
auto BindEntriesForward(Rows rows) {
  return BindEntriesOptions(std::move(rows)
                                .template Ret<AnyBuffer>()  // maxima
                                .template Ret<AnyBuffer>()  // log_sums
                                .template Ret<AnyBuffer>()  // blank_logits
                                .template Ret<AnyBuffer>()  // label_logits
                                .RemainingRets());          // pick_logits, one for each pick
}

template <typename Backend, typename... Labels>
Error EntriesBackward(typename Backend::Context context, AnyBuffer logits, Labels... labels,
                      AnyBuffer maxima, AnyBuffer log_sums, AnyBuffer sum_cotangents,
                      AnyBuffer blank_cotangents, AnyBuffer label_cotangents,
                      xla::ffi::RemainingArgs pick_cotangents, AnyResult logits_cotangents,
                      int64_t blank, int64_t tokens, int64_t without_blank, int64_t without_label,
                      Columns picks) {
  Rows rows;
  EntriesOptions options;
  JAX_RNNT_RETURN_IF_ERROR(MakeRows(logits, blank, &rows, labels...));
  JAX_RNNT_RETURN_IF_ERROR(MakeEntriesOptions(rows.rows, rows.V, blank, tokens, without_blank,
                                              without_label, picks, &options));
  JAX_RNNT_RETURN_IF_ERROR(Check("logits_cotangents", *logits_cotangents, logits.element_type(),
                                 logits.element_count()));
  return DispatchLogits<Backend>(logits.element_type(), [&](auto t, auto real) -> Error {
    using T = typename decltype(t)::Type;
    using Real = typename decltype(real)::Type;
    constexpr DataType kReal = kDataType<Real>;
    JAX_RNNT_RETURN_IF_ERROR(Check("maxima", maxima, kReal, rows.rows));
    JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", log_sums, kReal, rows.rows));
    EntriesCotangents<Real> cotangents;
    JAX_RNNT_RETURN_IF_ERROR(MakeEntriesCotangents(rows.rows, picks, sum_cotangents,
                                                   blank_cotangents, label_cotangents,
                                                   pick_cotangents, &cotangents));
    if (rows.rows == 0) return Error::Success();
    return Backend::template EntriesBackward<T, Real>(
        context, rows.rows, options, Data<const T>(logits), rows.labels, Data<const Real>(maxima),
        Data<const Real>(log_sums), cotangents, Data<T>(*logits_cotangents));
  });
}

template <typename Rows>
auto BindEntriesCotangents(Rows&& rows) {
  return std::move(rows)
      .template Arg<AnyBuffer>()  // maxima
      .template Arg<AnyBuffer>()  // log_sums
      .template Arg<AnyBuffer>()  // sum_cotangents
      .template Arg<AnyBuffer>()  // blank_cotangents
      .template Arg<AnyBuffer>()  // label_cotangents
      .RemainingArgs();           // pick_cotangents, one for each pick
}

template <typename Rows>
auto BindEntriesBackward(Rows rows) {
  return BindEntriesOptions(BindEntriesCotangents(std::move(rows))
                                .template Ret<AnyBuffer>());  // logits_cotangents, shaped as logits
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_ENTRIES_H_
