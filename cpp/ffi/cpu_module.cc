// jax_rnnt._cpu: the custom calls on CPU.
#include "core/half.h"
#include "cpu/isa.h"
#include "cpu/lattice/align.h"
#include "cpu/lattice/arcs.h"
#include "cpu/lattice/lattice.h"
#include "cpu/parallel_for.h"
#include "cpu/rows/entries.h"
#include "cpu/rows/pick.h"
#include "ffi/align.h"
#include "ffi/arcs.h"
#include "ffi/entries.h"
#include "ffi/entries_biased.h"
#include "ffi/lattice.h"
#include "ffi/module.h"
#include "ffi/rows.h"

namespace jax_rnnt::ffi {
namespace {

struct CpuBackend {
  using Context = xla::ffi::ThreadPool;
  using BFloat16 = jax_rnnt::BFloat16;
  using Float16 = jax_rnnt::Float16;

  static cpu::ParallelFor Loop(Context& pool) {
    return [&pool](int64_t count, const std::function<void(int64_t)>& body) {
      cpu::ParallelForOnPool(pool, count, body);
    };
  }

  template <typename T, typename Real, typename... Arguments>
  static Error PickForward(Context pool, Arguments... arguments) {
    cpu::PickForward<T, Real>(arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename T, typename Real, typename... Arguments>
  static Error PickBackward(Context pool, Arguments... arguments) {
    cpu::PickBackward<T, Real>(arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename T, typename Real, typename... Arguments>
  static Error EntriesForward(Context pool, Arguments... arguments) {
    cpu::EntriesForward<T, Real>(arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename T, typename Real, typename... Arguments>
  static Error EntriesBackward(Context pool, Arguments... arguments) {
    cpu::EntriesBackward<T, Real>(arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename Real, typename... Arguments>
  static Error EntriesForwardBiased(Context pool, Arguments... arguments) {
    cpu::EntriesForwardBiased<Real>(arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename T, typename Real, typename... Arguments>
  static Error EntriesBackwardBiased(Context pool, Arguments... arguments) {
    cpu::EntriesBackwardBiased<T, Real>(arguments..., Loop(pool));
    return Error::Success();
  }

  static ScratchCounts<0> CostScratch(int64_t, const LatticeLayout&) { return {}; }

  template <typename Real, typename... Arguments>
  static Error LatticeCost(Context pool, const LatticeLayout& layout, Arguments... arguments) {
    cpu::LatticeCost<Real>(layout, arguments..., Loop(pool));
    return Error::Success();
  }

  static ScratchCounts<0> WalkScratch(int64_t, const LatticeLayout&) { return {}; }

  // The betas are not kept: the backward walks them.
  template <typename Real>
  static Error LatticeForward(Context pool, const LatticeLayout& layout,
                              const Real* blank_log_probs, const Real* label_log_probs, Real* costs,
                              Scaled<Real>* alphas, Scaled<Real>*, Scaled<Real>* totals) {
    cpu::LatticeForward<Real>(layout, blank_log_probs, label_log_probs, costs, alphas, totals,
                              Loop(pool));
    return Error::Success();
  }

  template <typename Real, typename... Arguments>
  static Error LatticeBackward(Context pool, const LatticeLayout& layout, int64_t cells,
                               const Real* blank_log_probs, const Real* label_log_probs,
                               const Scaled<Real>* alphas, const Scaled<Real>*,
                               Arguments... arguments) {
    cpu::LatticeBackward<Real>(layout, cells, blank_log_probs, label_log_probs, alphas,
                               arguments..., Loop(pool));
    return Error::Success();
  }

  static ScratchCounts<0> ArcsCostScratch(int64_t, const LatticeLayout&) { return {}; }

  template <typename Real, typename... Arguments>
  static Error ArcsCost(Context pool, const LatticeLayout& layout, const ArcTopology& topology,
                        const ArcArrays<Real>& arrays, Arguments... arguments) {
    cpu::ArcsCost<Real>(layout, topology, arrays, arguments..., Loop(pool));
    return Error::Success();
  }

  static ScratchCounts<0> ArcsForwardScratch(int64_t, const LatticeLayout&) { return {}; }

  template <typename Real, typename... Arguments>
  static Error ArcsForward(Context pool, const LatticeLayout& layout, const ArcTopology& topology,
                           const ArcArrays<Real>& arrays, Arguments... arguments) {
    cpu::ArcsForward<Real>(layout, topology, arrays, arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename Real, typename... Arguments>
  static Error ArcsBackward(Context pool, const LatticeLayout& layout, int64_t cells,
                            const ArcTopology& topology, const ArcArrays<Real>& arrays,
                            Arguments... arguments) {
    cpu::ArcsBackward<Real>(layout, cells, topology, arrays, arguments..., Loop(pool));
    return Error::Success();
  }

  static ScratchCounts<0> AlignScratch(const LatticeLayout&) { return {}; }

  template <typename Real, typename... Arguments>
  static Error LatticeAlign(Context pool, const LatticeLayout& layout, Arguments... arguments) {
    cpu::LatticeAlign<Real>(layout, arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename Real, typename... Arguments>
  static Error LatticeTrace(Context pool, const PathWordsLayout& layout, Arguments... arguments) {
    cpu::LatticeTrace<Real>(layout, arguments..., Loop(pool));
    return Error::Success();
  }
};

using Pool = xla::ffi::ThreadPool;

XLA_FFI_DEFINE_HANDLER(kPickForward, (PickForward<CpuBackend, Int32Buffer>),
                       BindPickForward(BindRows<Pool>()));
XLA_FFI_DEFINE_HANDLER(kPickForwardColumns, (PickForward<CpuBackend, Int32Buffer, Int32Buffer>),
                       BindPickForward(BindColumns<Pool>()));
XLA_FFI_DEFINE_HANDLER(kPickBackward, (PickBackward<CpuBackend, Int32Buffer>),
                       BindPickBackward(BindRows<Pool>()));
XLA_FFI_DEFINE_HANDLER(kPickBackwardColumns, (PickBackward<CpuBackend, Int32Buffer, Int32Buffer>),
                       BindPickBackward(BindColumns<Pool>()));
XLA_FFI_DEFINE_HANDLER(kEntriesForward, (EntriesForward<CpuBackend, Int32Buffer>),
                       BindEntriesForward(BindRows<Pool>()));
XLA_FFI_DEFINE_HANDLER(kEntriesForwardColumns,
                       (EntriesForward<CpuBackend, Int32Buffer, Int32Buffer>),
                       BindEntriesForward(BindColumns<Pool>()));
XLA_FFI_DEFINE_HANDLER(kEntriesBackward, (EntriesBackward<CpuBackend, Int32Buffer>),
                       BindEntriesBackward(BindRows<Pool>()));
XLA_FFI_DEFINE_HANDLER(kEntriesBackwardColumns,
                       (EntriesBackward<CpuBackend, Int32Buffer, Int32Buffer>),
                       BindEntriesBackward(BindColumns<Pool>()));
XLA_FFI_DEFINE_HANDLER(kEntriesForwardBiased, EntriesForwardBiased<CpuBackend>,
                       BindEntriesForwardBiased<Pool>());
XLA_FFI_DEFINE_HANDLER(kEntriesBackwardBiased, EntriesBackwardBiased<CpuBackend>,
                       BindEntriesBackwardBiased<Pool>());
XLA_FFI_DEFINE_HANDLER(kLatticeCost, Padded<LatticeCost<CpuBackend>>(),
                       BindLatticeCost(BindPadded<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeForward, Padded<LatticeForward<CpuBackend>>(),
                       BindLatticeForward(BindPadded<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeBackward, Padded<LatticeBackward<CpuBackend>>(),
                       BindLatticeBackward(BindPadded<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeCostCompact, Compact<LatticeCost<CpuBackend>>(),
                       BindLatticeCost(BindCompact<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeForwardCompact, Compact<LatticeForward<CpuBackend>>(),
                       BindLatticeForward(BindCompact<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeBackwardCompact, Compact<LatticeBackward<CpuBackend>>(),
                       BindLatticeBackward(BindCompact<Pool>()));
XLA_FFI_DEFINE_HANDLER(kArcsCost, PaddedArcs<ArcsCost<CpuBackend>>(),
                       BindArcsCost(BindPaddedArcs<Pool>()));
XLA_FFI_DEFINE_HANDLER(kArcsForward, PaddedArcs<ArcsForward<CpuBackend>>(),
                       BindArcsForward(BindPaddedArcs<Pool>()));
XLA_FFI_DEFINE_HANDLER(kArcsBackward, PaddedArcs<ArcsBackward<CpuBackend>>(),
                       BindArcsBackward(BindPaddedArcs<Pool>()));
XLA_FFI_DEFINE_HANDLER(kArcsCostCompact, CompactArcs<ArcsCost<CpuBackend>>(),
                       BindArcsCost(BindCompactArcs<Pool>()));
XLA_FFI_DEFINE_HANDLER(kArcsForwardCompact, CompactArcs<ArcsForward<CpuBackend>>(),
                       BindArcsForward(BindCompactArcs<Pool>()));
XLA_FFI_DEFINE_HANDLER(kArcsBackwardCompact, CompactArcs<ArcsBackward<CpuBackend>>(),
                       BindArcsBackward(BindCompactArcs<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeAlign, Padded<LatticeAlign<CpuBackend>>(),
                       BindLatticeAlign(BindPadded<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeAlignCompact, Compact<LatticeAlign<CpuBackend>>(),
                       BindLatticeAlign(BindCompact<Pool>()));
XLA_FFI_DEFINE_HANDLER(kLatticeTrace, PaddedTrace<CpuBackend>, BindPaddedTrace<Pool>());
XLA_FFI_DEFINE_HANDLER(kLatticeTraceCompact, CompactTrace<CpuBackend>, BindCompactTrace<Pool>());

}  // namespace

NB_MODULE(_cpu, module) {
  DefineModule(module, {{"pick_forward", kPickForward},
                        {"pick_backward", kPickBackward},
                        {"pick_forward_columns", kPickForwardColumns},
                        {"pick_backward_columns", kPickBackwardColumns},
                        {"entries_forward", kEntriesForward},
                        {"entries_backward", kEntriesBackward},
                        {"entries_forward_columns", kEntriesForwardColumns},
                        {"entries_backward_columns", kEntriesBackwardColumns},
                        {"entries_forward_biased", kEntriesForwardBiased},
                        {"entries_backward_biased", kEntriesBackwardBiased},
                        {"lattice_cost", kLatticeCost},
                        {"lattice_forward", kLatticeForward},
                        {"lattice_backward", kLatticeBackward},
                        {"lattice_cost_compact", kLatticeCostCompact},
                        {"lattice_forward_compact", kLatticeForwardCompact},
                        {"lattice_backward_compact", kLatticeBackwardCompact},
                        {"arcs_cost", kArcsCost},
                        {"arcs_forward", kArcsForward},
                        {"arcs_backward", kArcsBackward},
                        {"arcs_cost_compact", kArcsCostCompact},
                        {"arcs_forward_compact", kArcsForwardCompact},
                        {"arcs_backward_compact", kArcsBackwardCompact},
                        {"lattice_align", kLatticeAlign},
                        {"lattice_align_compact", kLatticeAlignCompact},
                        {"lattice_trace", kLatticeTrace},
                        {"lattice_trace_compact", kLatticeTraceCompact}});
  module.def("instruction_set", [] { return cpu::IsaName(cpu::BestIsa()); });
}

}  // namespace jax_rnnt::ffi
