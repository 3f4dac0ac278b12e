// What the kernels of rows take of a row of W logits: the logarithm of a sum over its tokens, and
// single logits. Every normalisation of a row is made of these: a softmax, one without the blank,
// the probability of all symbols but two, a second softmax over logits behind the tokens.
#ifndef JAX_RNNT_CORE_ENTRIES_H_
#define JAX_RNNT_CORE_ENTRIES_H_

#include <cstdint>

#include "core/host_device.h"

namespace jax_rnnt {

inline constexpr int kMaxPicks = 16;

// The entries of a row: the blank's, the row's own label's, and those of the picks, in this order.
inline constexpr int kBlankEntry = 0;
inline constexpr int kLabelEntry = 1;
inline constexpr int kFirstPickEntry = 2;
inline constexpr int kMaxEntries = kFirstPickEntry + kMaxPicks;

// A row has `width` logits, of which the first `tokens` are symbols. The sum is over the row's
// core: its tokens, without the blank or the row's own label where the options leave them out.
struct EntriesOptions {
  int32_t width = 0;   // W, at least 1
  int32_t tokens = 0;  // V, in [1, W]
  int32_t blank = 0;   // in [0, V)
  bool without_blank = false;
  bool without_label = false;
  int32_t pick_count = 0;         // at most kMaxPicks
  int32_t picks[kMaxPicks] = {};  // columns in [0, W), in any order; the same one may occur twice

  JAX_RNNT_HOST_DEVICE bool IsValid() const {
    bool is_valid = tokens >= 1 && tokens <= width && blank >= 0 && blank < tokens &&
                    pick_count >= 0 && pick_count <= kMaxPicks;
    for (int32_t i = 0; is_valid && i < pick_count; ++i) {
      is_valid = picks[i] >= 0 && picks[i] < width;
    }
    return is_valid;
  }

  // Whether a column is in the core of a row with this label.
  JAX_RNNT_HOST_DEVICE bool IsInCore(int32_t column, int32_t label) const {
    return column < tokens && !(without_blank && column == blank) &&
           !(without_label && column == label);
  }
};

// Numbers (biases, W) that are added to rows of logits: row r has bias r / rows.
template <typename Real>
struct RowBiases {
  const Real* values;
  int64_t rows;  // of each bias, in [1, 2^31)

  bool IsValid() const { return rows >= 1 && rows <= INT32_MAX; }
};

// The results of the forward, one number a row in each array.
template <typename Real>
struct EntriesResults {
  Real* maxima;
  Real* log_sums;
  Real* blank_logits;
  Real* label_logits;
  Real* pick_logits[kMaxPicks];  // of which the first pick_count are arrays
};

// The cotangents of the log-sum (maximum + log_sum) and of the entries, one number a row in each
// array.
template <typename Real>
struct EntriesCotangents {
  const Real* sums;
  const Real* blanks;
  const Real* labels;
  const Real* picks[kMaxPicks];  // of which the first pick_count are arrays
};

// The gradient of a bias comes in parts, each the sum over this many rows or those that are left.
inline constexpr int kBiasPartRows = 32;

JAX_RNNT_HOST_DEVICE int64_t PartsOfBias(int64_t rows_of_bias) {
  return (rows_of_bias + kBiasPartRows - 1) / kBiasPartRows;
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_CORE_ENTRIES_H_
