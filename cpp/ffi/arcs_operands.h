// What the calls of arcs.h check: which arcs there are, and an array for each of them.
#ifndef JAX_RNNT_FFI_ARCS_OPERANDS_H_
#define JAX_RNNT_FFI_ARCS_OPERANDS_H_

#include <cstdint>
#include <string>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "ffi/buffers.h"
#include "ffi/lattice_buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

using Integers = xla::ffi::Span<const int64_t>;
using xla::ffi::RemainingArgs;
using xla::ffi::RemainingRets;

inline Error MakeTopology(const Integers& dt, const Integers& du, const Integers& last,
                          ArcTopology* topology) {
  const size_t count = dt.size();
  bool right = count >= 1 && count <= kMaxArcs && du.size() == count && last.size() == count;
  for (size_t k = 0; right && k < count; ++k) {
    right = dt[k] >= 0 && dt[k] <= kMaxArcFrames && du[k] >= 0 && du[k] <= 1 && dt[k] + du[k] > 0 &&
            last[k] >= 0 && last[k] <= 1;
    if (k > 0) right = right && (du[k - 1] < du[k] || (du[k - 1] == du[k] && dt[k - 1] < dt[k]));
    topology->dt[k] = static_cast<int8_t>(dt[k]);
    topology->du[k] = static_cast<int8_t>(du[k]);
    topology->may_be_last[k] = last[k] != 0;
  }
  topology->count = static_cast<int32_t>(count);
  if (right) return Error::Success();
  return Error(ErrorCode::kInvalidArgument, "jax_rnnt: dt, du and last must be arcs of at most " +
                                                std::to_string(kMaxArcFrames) +
                                                " frames and one label, in ascending order.");
}

// The operands of a call: its arcs, the lengths, in compact calls the offsets, then initial and
// final, and behind them those of arcs_backward.
struct ArcOperands {
  // An error unless there are `more` operands behind those of every call, and these fit together.
  Error Make(bool compact, int64_t max_labels, size_t more) {
    const size_t lengths = topology.count;
    initial = lengths + (compact ? 3 : 2);
    first_more = initial + 2;
    if (operands.size() != first_more + more) {
      return Error(ErrorCode::kInvalidArgument,
                   "jax_rnnt: there must be " + std::to_string(first_more + more) +
                       " operands, not " + std::to_string(operands.size()) + ".");
    }
    const auto arcs = operands.get<AnyBuffer>(0);
    if (arcs.has_error()) return arcs.error();
    const auto frames_lengths = operands.get<Int32Buffer>(lengths);
    if (frames_lengths.has_error()) return frames_lengths.error();
    const auto labels_lengths = operands.get<Int32Buffer>(lengths + 1);
    if (labels_lengths.has_error()) return labels_lengths.error();
    // Where there are no offsets, the labels' lengths stand in, and nobody reads them.
    const auto offsets = operands.get<Int32Buffer>(compact ? lengths + 2 : lengths + 1);
    if (offsets.has_error()) return offsets.error();
    JAX_RNNT_RETURN_IF_ERROR(MakeLayout("arcs[0]", *arcs, *frames_lengths, *labels_lengths,
                                        compact ? &*offsets : nullptr, max_labels, &layout));
    cells = arcs->element_count();
    groups = Leading(frames_lengths->dimensions(), compact ? 1 : 0);
    return Error::Success();
  }

  Error Check(const char* name, size_t i, DataType dtype, int64_t count) const {
    const auto buffer = operands.get<AnyBuffer>(i);
    if (buffer.has_error()) return buffer.error();
    return ffi::Check(name, *buffer, dtype, count);
  }

  // An error unless operand i is weights (..., T + 1), one for each sequence, or (..., 0).
  Error CheckWeights(const char* name, size_t i, DataType dtype) const {
    const auto weights = operands.get<AnyBuffer>(i);
    if (weights.has_error()) return weights.error();
    const auto dimensions = weights->dimensions();
    const int64_t own = dimensions.size() == 0 ? -1 : dimensions.back();
    if (weights->element_type() != dtype) return WrongBuffer(name, "of the type of the arcs");
    if ((own != 0 && (layout.compact() || own != layout.max_frames + 1)) ||
        Leading(dimensions, 1) != groups) {
      return WrongBuffer(name, layout.compact() ? "(..., 0)" : "(..., T + 1) or (..., 0)");
    }
    return Error::Success();
  }

  template <typename Real>
  Error MakeArrays(ArcArrays<Real>* arrays) const {
    for (int k = 0; k < topology.count; ++k) {
      const std::string name = "arcs[" + std::to_string(k) + "]";
      JAX_RNNT_RETURN_IF_ERROR(Check(name.c_str(), k, kDataType<Real>, cells));
      arrays->arcs[k] = Get<const Real>(k);
    }
    JAX_RNNT_RETURN_IF_ERROR(CheckWeights("initial", initial, kDataType<Real>));
    JAX_RNNT_RETURN_IF_ERROR(CheckWeights("final", initial + 1, kDataType<Real>));
    arrays->initial = Count(initial) == 0 ? nullptr : Get<const Real>(initial);
    arrays->final_weights = Count(initial + 1) == 0 ? nullptr : Get<const Real>(initial + 1);
    return Error::Success();
  }

  int64_t Count(size_t i) const { return operands.get<AnyBuffer>(i)->element_count(); }

  // The pointer of an operand that has been checked.
  template <typename T>
  T* Get(size_t i) const {
    return static_cast<T*>(operands.get<AnyBuffer>(i)->untyped_data());
  }

  RemainingArgs operands;
  ArcTopology topology = {};
  LatticeLayout layout = {};
  int64_t cells = 0;      // of one array of arcs
  int64_t groups = 0;     // the product of the batch dimensions of arcs
  size_t initial = 0;     // index of initial; final is behind it
  size_t first_more = 0;  // index of the first operand behind final
};

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_ARCS_OPERANDS_H_
