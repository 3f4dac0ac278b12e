// What the calls of lattice.h and arcs.h check: where the cells of their arcs lie, and scratch.
#ifndef JAX_RNNT_FFI_LATTICE_BUFFERS_H_
#define JAX_RNNT_FFI_LATTICE_BUFFERS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "core/lattice_layout.h"
#include "ffi/buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// Kernels count bytes of a few rows in 32 bits.
constexpr int64_t kMaxColumns = (int64_t{1} << 28) - 1;

// The layout of arcs (..., T, U) or, with offsets, of arcs (..., S) and lengths (..., N). Errors
// call the arcs `name`.
inline Error MakeLayout(const char* name, const AnyBuffer& arcs, const Int32Buffer& frames_lengths,
                        const Int32Buffer& labels_lengths, const Int32Buffer* offsets,
                        int64_t max_labels, LatticeLayout* layout) {
  const auto dimensions = arcs.dimensions();
  layout->sequences = frames_lengths.element_count();
  layout->frames_lengths = frames_lengths.typed_data();
  layout->labels_lengths = labels_lengths.typed_data();
  JAX_RNNT_RETURN_IF_ERROR(
      Check("labels_lengths", labels_lengths, DataType::S32, layout->sequences));
  if (offsets == nullptr) {
    if (dimensions.size() < 2) return WrongBuffer(name, "(..., T, U)");
    layout->max_frames = dimensions[dimensions.size() - 2];
    layout->max_columns = dimensions.back();
    const int64_t cells = Times({layout->sequences, layout->max_frames, layout->max_columns});
    if (static_cast<int64_t>(arcs.element_count()) != cells) {
      return WrongBuffer(name, "one (T, U) for each length");
    }
  } else {
    const auto batch = frames_lengths.dimensions();
    if (dimensions.size() < 1 || batch.size() < 1) {
      return WrongBuffer(name, "(..., S), with lengths (..., N)");
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
      return WrongBuffer(name, "one (S) for each (N) of the lengths");
    }
  }
  // Kernels count a few steps beyond the frames in 32 bits.
  if (layout->max_frames > std::numeric_limits<int32_t>::max() - 64 ||
      layout->max_columns > kMaxColumns || layout->max_columns < 1) {
    return WrongBuffer(name, "of fewer than 2^31 - 64 frames and 2^28 columns");
  }
  return Error::Success();
}

// The betas behind the alphas of what is kept, which may have no address where nothing is.
template <typename Pair>
Pair* BetasOf(Pair* alphas, const LatticeLayout& layout) {
  return layout.sequences == 0 ? alphas : alphas + layout.plane();
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

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_LATTICE_BUFFERS_H_
