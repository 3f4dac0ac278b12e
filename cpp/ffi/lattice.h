// The custom calls over lattices: lattice_cost, lattice_forward and lattice_backward, on padded
// arcs, and the same with _compact behind the name, on arcs packed one sequence after another.
//
// A Backend has LatticeCost<Real>, LatticeForward<Real> and LatticeBackward<Real>. CostScratch (for
// the first) and WalkScratch (for the other two) check nothing: they name the scratch buffers that
// the backend's module appends to the binding, with the count that each must hold.
#ifndef JAX_RNNT_FFI_LATTICE_H_
#define JAX_RNNT_FFI_LATTICE_H_

#include <cstdint>
#include <utility>

#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "ffi/buffers.h"
#include "ffi/lattice_buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// A lattice call on arcs (..., T, U).
template <typename Call>
struct Padded {
  template <typename Context, typename... Rest>
  Error operator()(Context context, AnyBuffer blank_log_probs, AnyBuffer label_log_probs,
                   Int32Buffer frames_lengths, Int32Buffer labels_lengths, Rest... rest) const {
    LatticeLayout layout;
    JAX_RNNT_RETURN_IF_ERROR(MakeLayout("blank_log_probs", blank_log_probs, frames_lengths,
                                        labels_lengths, nullptr, 0, &layout));
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
    JAX_RNNT_RETURN_IF_ERROR(MakeLayout("blank_log_probs", blank_log_probs, frames_lengths,
                                        labels_lengths, &offsets, max_labels, &layout));
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

// The three calls, behind the layout that Padded or Compact makes, and their bindings, which follow
// BindPadded or BindCompact.
//   scratch    the backend's own buffers; CostScratch and WalkScratch say how many Scaled numbers
//              each of them holds
//   kept       alphas and betas, of which a backend may leave out one, as core/lattice_layout.h
//              says
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
  static Error Run(typename Backend::Context context, LatticeLayout layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyResult costs,
                   AnyResult kept, AnyResult totals, Scratch... scratch) {
    return DispatchReals("blank_log_probs", blank_log_probs, [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      const int64_t cells = blank_log_probs.element_count();
      JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", label_log_probs, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("costs", *costs, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(Check("kept", *kept, kBits<Real>, 4 * cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("totals", *totals, kBits<Real>, 2 * layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(
          CheckScratch(kReal, Backend::WalkScratch(cells, layout, *scratch...)));
      if (layout.sequences == 0) return Error::Success();
      layout.planes = 2;
      Scaled<Real>* const alphas = Data<Scaled<Real>>(*kept);
      return Backend::template LatticeForward<Real>(
          context, layout, Data<const Real>(blank_log_probs), Data<const Real>(label_log_probs),
          Data<Real>(*costs), alphas, BetasOf(alphas, layout), Data<Scaled<Real>>(*totals),
          Data<Scaled<Real>>(*scratch)...);
    });
  }
};

template <typename Binding>
auto BindLatticeForward(Binding&& binding) {
  return std::move(binding)
      .template Ret<AnyBuffer>()   // costs, one a sequence
      .template Ret<AnyBuffer>()   // kept, two pairs for each cell
      .template Ret<AnyBuffer>();  // totals, a pair for each sequence
}

template <typename Backend>
struct LatticeBackward {
  static Error Run(typename Backend::Context context, LatticeLayout layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyBuffer kept,
                   AnyBuffer totals, AnyBuffer cotangents, AnyResult blank_cotangents,
                   AnyResult label_cotangents) {
    return DispatchReals("blank_log_probs", blank_log_probs, [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      const int64_t cells = blank_log_probs.element_count();
      JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", label_log_probs, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("kept", kept, kBits<Real>, 4 * cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("totals", totals, kBits<Real>, 2 * layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(Check("cotangents", cotangents, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(Check("blank_cotangents", *blank_cotangents, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("label_cotangents", *label_cotangents, kReal, cells));
      if (layout.sequences == 0 && !layout.compact()) return Error::Success();
      layout.planes = 2;
      const Scaled<Real>* const alphas = Data<const Scaled<Real>>(kept);
      return Backend::template LatticeBackward<Real>(
          context, layout, cells, Data<const Real>(blank_log_probs),
          Data<const Real>(label_log_probs), alphas, BetasOf(alphas, layout),
          Data<const Scaled<Real>>(totals), Data<const Real>(cotangents),
          Data<Real>(*blank_cotangents), Data<Real>(*label_cotangents));
    });
  }
};

template <typename Binding>
auto BindLatticeBackward(Binding&& binding) {
  return std::move(binding)
      .template Arg<AnyBuffer>()   // kept, as lattice_forward left it
      .template Arg<AnyBuffer>()   // totals
      .template Arg<AnyBuffer>()   // cotangents, one a sequence
      .template Ret<AnyBuffer>()   // blank_cotangents, one a cell
      .template Ret<AnyBuffer>();  // label_cotangents, one a cell
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_LATTICE_H_
