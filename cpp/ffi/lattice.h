// The custom calls over lattices: lattice_cost, lattice_forward and lattice_backward, on padded
// arcs, and the same with _compact behind the name, on arcs packed one sequence after another.
//
// A Backend has LatticeCost<Real>, LatticeForward<Real> and LatticeBackward<Real>. CostScratch (for
// the first) and WalkScratch (for the other two) check nothing: they name the scratch buffers that
// the backend's module appends to the binding, with the count that each must hold.
#ifndef JAX_RNNT_FFI_LATTICE_H_
#define JAX_RNNT_FFI_LATTICE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "ffi/buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

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

template <typename Context>
auto BindPadded() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()     // blank_log_probs (..., T, U)
      .template Arg<AnyBuffer>()     // label_log_probs (..., T, U)
      .template Arg<Int32Buffer>()   // frames_lengths (...)
      .template Arg<Int32Buffer>();  // labels_lengths (...)
}

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

template <typename Context>
auto BindCompact() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Attr<int64_t>("max_labels")
      .template Arg<AnyBuffer>()     // blank_log_probs (..., S)
      .template Arg<AnyBuffer>()     // label_log_probs (..., S)
      .template Arg<Int32Buffer>()   // frames_lengths (..., N)
      .template Arg<Int32Buffer>()   // labels_lengths (..., N)
      .template Arg<Int32Buffer>();  // offsets (..., N)
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

// The three calls, behind the layout that Padded or Compact makes, and their bindings, which follow
// BindPadded or BindCompact.
//   scratch    the backend's own buffers; CostScratch and WalkScratch say how many Scaled numbers
//              each of them holds
//   sequence   one of (...); compact, one of (..., N)
//   cell       one of (..., T, U); compact, one of (..., S)

template <typename Backend>
struct LatticeCost {
  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const LatticeLayout& layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyResult costs,
                   Scratch... scratch) {
    return DispatchReals("blank_log_probs", blank_log_probs, [&](auto real) -> Error {
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

template <typename Binding>
auto BindLatticeCost(Binding&& binding) {
  return std::move(binding).template Ret<AnyBuffer>();  // costs, one a sequence
}

template <typename Backend>
struct LatticeForward {
  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const LatticeLayout& layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyResult costs,
                   AnyResult values, AnyResult totals, Scratch... scratch) {
    return DispatchReals("blank_log_probs", blank_log_probs, [&](auto real) -> Error {
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

template <typename Binding>
auto BindLatticeForward(Binding&& binding) {
  return std::move(binding)
      .template Ret<AnyBuffer>()   // costs, one a sequence
      .template Ret<AnyBuffer>()   // values, a pair for each cell
      .template Ret<AnyBuffer>();  // totals, a pair for each sequence
}

template <typename Backend>
struct LatticeBackward {
  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const LatticeLayout& layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyBuffer values,
                   AnyBuffer totals, AnyBuffer cotangents, AnyResult blank_cotangents,
                   AnyResult label_cotangents, Scratch... scratch) {
    return DispatchReals("blank_log_probs", blank_log_probs, [&](auto real) -> Error {
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

template <typename Binding>
auto BindLatticeBackward(Binding&& binding) {
  return std::move(binding)
      .template Arg<AnyBuffer>()   // values, as lattice_forward left them
      .template Arg<AnyBuffer>()   // totals
      .template Arg<AnyBuffer>()   // cotangents, one a sequence
      .template Ret<AnyBuffer>()   // blank_cotangents, one a cell
      .template Ret<AnyBuffer>();  // label_cotangents, one a cell
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_LATTICE_H_
