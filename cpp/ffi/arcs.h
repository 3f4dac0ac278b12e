// The custom calls over lattices of any topology (core/arcs.h): arcs_cost, arcs_forward and
// arcs_backward, on padded arcs, and the same with _compact behind the name, on arcs packed one
// sequence after another.
//
// The attributes dt, du and last say what arcs there are; the operands begin with an array for each
// of them. A Backend has ArcsCost<Real>, ArcsForward<Real> and ArcsBackward<Real>. ArcsCostScratch
// and ArcsForwardScratch check nothing: they name the scratch buffers that the backend's module
// appends to the binding of the call, with the count that each must hold.
#ifndef JAX_RNNT_FFI_ARCS_H_
#define JAX_RNNT_FFI_ARCS_H_

#include <cstdint>
#include <utility>

#include "core/arcs.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"
#include "ffi/arcs_operands.h"
#include "ffi/buffers.h"
#include "ffi/lattice_buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// A call on arcs (..., T, U).
template <typename Call>
struct PaddedArcs {
  template <typename Context, typename... Results>
  Error operator()(Context context, Integers dt, Integers du, Integers last, RemainingArgs operands,
                   Results... results) const {
    ArcOperands own{operands};
    JAX_RNNT_RETURN_IF_ERROR(MakeTopology(dt, du, last, &own.topology));
    JAX_RNNT_RETURN_IF_ERROR(own.Make(/*compact=*/false, 0, Call::kMoreOperands));
    return Call::Run(context, own, results...);
  }
};

// Behind the context: the attributes, one integer an arc, and operands as ArcOperands says. The
// results of the call follow.
template <typename Context>
auto BindPaddedArcs() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Attr<Integers>("dt")
      .template Attr<Integers>("du")
      .template Attr<Integers>("last")
      .RemainingArgs();
}

// A call on arcs (..., S).
template <typename Call>
struct CompactArcs {
  template <typename Context, typename... Results>
  Error operator()(Context context, int64_t max_labels, Integers dt, Integers du, Integers last,
                   RemainingArgs operands, Results... results) const {
    ArcOperands own{operands};
    JAX_RNNT_RETURN_IF_ERROR(MakeTopology(dt, du, last, &own.topology));
    JAX_RNNT_RETURN_IF_ERROR(own.Make(/*compact=*/true, max_labels, Call::kMoreOperands));
    return Call::Run(context, own, results...);
  }
};

template <typename Context>
auto BindCompactArcs() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Attr<int64_t>("max_labels")
      .template Attr<Integers>("dt")
      .template Attr<Integers>("du")
      .template Attr<Integers>("last")
      .RemainingArgs();
}

// The three calls and their bindings, which follow BindPaddedArcs or BindCompactArcs.
//   operands   arcs, one a cell each; frames_lengths and labels_lengths (..., or compact N),
//   compact
//              offsets (N); initial and final (..., T + 1) or (..., 0), compact (..., 0)
//   scratch    the backend's own buffers; ArcsCostScratch and ArcsForwardScratch say how many
//              Scaled numbers each of them holds
//   sequence   one of (...); compact, one of (..., N)
//   cell       one of (..., T, U); compact, one of (..., S)

template <typename Backend>
struct ArcsCost {
  static constexpr size_t kMoreOperands = 0;

  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const ArcOperands& operands, AnyResult costs,
                   Scratch... scratch) {
    const auto arcs = operands.operands.template get<AnyBuffer>(0);
    return DispatchReals("arcs[0]", *arcs, [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      const LatticeLayout& layout = operands.layout;
      ArcArrays<Real> arrays;
      JAX_RNNT_RETURN_IF_ERROR(operands.MakeArrays(&arrays));
      JAX_RNNT_RETURN_IF_ERROR(Check("costs", *costs, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(
          CheckScratch(kReal, Backend::ArcsCostScratch(operands.cells, layout, *scratch...)));
      if (layout.sequences == 0) return Error::Success();
      return Backend::template ArcsCost<Real>(context, layout, operands.topology, arrays,
                                              Data<Real>(*costs), Data<Scaled<Real>>(*scratch)...);
    });
  }
};

template <typename Binding>
auto BindArcsCost(Binding&& binding) {
  return std::move(binding).template Ret<AnyBuffer>();  // costs, one a sequence
}

template <typename Backend>
struct ArcsForward {
  static constexpr size_t kMoreOperands = 0;

  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const ArcOperands& operands, AnyResult costs,
                   AnyResult kept, AnyResult totals, Scratch... scratch) {
    const auto arcs = operands.operands.template get<AnyBuffer>(0);
    return DispatchReals("arcs[0]", *arcs, [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      LatticeLayout layout = operands.layout;
      ArcArrays<Real> arrays;
      JAX_RNNT_RETURN_IF_ERROR(operands.MakeArrays(&arrays));
      JAX_RNNT_RETURN_IF_ERROR(Check("costs", *costs, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(Check("kept", *kept, kBits<Real>, 4 * operands.cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("totals", *totals, kBits<Real>, 2 * layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(
          CheckScratch(kReal, Backend::ArcsForwardScratch(operands.cells, layout, *scratch...)));
      if (layout.sequences == 0) return Error::Success();
      layout.planes = 2;
      Scaled<Real>* const alphas = Data<Scaled<Real>>(*kept);
      return Backend::template ArcsForward<Real>(
          context, layout, operands.topology, arrays, Data<Real>(*costs), alphas,
          BetasOf(alphas, layout), Data<Scaled<Real>>(*totals), Data<Scaled<Real>>(*scratch)...);
    });
  }
};

template <typename Binding>
auto BindArcsForward(Binding&& binding) {
  return std::move(binding)
      .template Ret<AnyBuffer>()   // costs, one a sequence
      .template Ret<AnyBuffer>()   // kept, two pairs for each cell: alphas and betas
      .template Ret<AnyBuffer>();  // totals, a pair for each sequence
}

template <typename Backend>
struct ArcsBackward {
  static constexpr size_t kMoreOperands = 3;  // kept and totals, as left; cotangents

  static Error Run(typename Backend::Context context, const ArcOperands& operands,
                   AnyResult initial_cotangents, AnyResult final_cotangents,
                   RemainingRets arc_cotangents) {
    const auto arcs = operands.operands.template get<AnyBuffer>(0);
    return DispatchReals("arcs[0]", *arcs, [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      LatticeLayout layout = operands.layout;
      const int64_t cells = operands.cells;
      const size_t initial = operands.initial, kept = operands.first_more, totals = kept + 1,
                   cotangents = kept + 2;
      ArcArrays<Real> arrays;
      JAX_RNNT_RETURN_IF_ERROR(operands.MakeArrays(&arrays));
      JAX_RNNT_RETURN_IF_ERROR(operands.Check("kept", kept, kBits<Real>, 4 * cells));
      JAX_RNNT_RETURN_IF_ERROR(operands.Check("totals", totals, kBits<Real>, 2 * layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(operands.Check("cotangents", cotangents, kReal, layout.sequences));
      JAX_RNNT_RETURN_IF_ERROR(
          Check("initial_cotangents", *initial_cotangents, kReal, operands.Count(initial)));
      JAX_RNNT_RETURN_IF_ERROR(
          Check("final_cotangents", *final_cotangents, kReal, operands.Count(initial + 1)));
      if (arc_cotangents.size() != static_cast<size_t>(operands.topology.count)) {
        return Error(ErrorCode::kInvalidArgument, "jax_rnnt: each arc must have a cotangent.");
      }
      Real* results[kMaxArcs] = {};
      for (int k = 0; k < operands.topology.count; ++k) {
        auto result = arc_cotangents.get<AnyBuffer>(k);
        if (result.has_error()) return result.error();
        JAX_RNNT_RETURN_IF_ERROR(Check("arc_cotangents", **result, kReal, cells));
        results[k] = Data<Real>(**result);
      }
      if (layout.sequences == 0 && !layout.compact()) return Error::Success();
      layout.planes = 2;
      const Scaled<Real>* const alphas = operands.Get<const Scaled<Real>>(kept);
      return Backend::template ArcsBackward<Real>(
          context, layout, cells, operands.topology, arrays, alphas, BetasOf(alphas, layout),
          operands.Get<const Scaled<Real>>(totals), operands.Get<const Real>(cotangents), results,
          Data<Real>(*initial_cotangents), Data<Real>(*final_cotangents));
    });
  }
};

template <typename Binding>
auto BindArcsBackward(Binding&& binding) {
  return std::move(binding)
      .template Ret<AnyBuffer>()  // initial_cotangents, shaped as initial
      .template Ret<AnyBuffer>()  // final_cotangents, shaped as final
      .RemainingRets();           // the arcs' cotangents, one a cell each
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_ARCS_H_
