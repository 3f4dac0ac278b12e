// jax_rnnt._cpu: the custom calls on CPU.
#include "core/half.h"
#include "cpu/isa.h"
#include "cpu/lattice/lattice.h"
#include "cpu/parallel_for.h"
#include "cpu/rows/pick.h"
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

  static ScratchCounts<0> CostScratch(int64_t, const LatticeLayout&) { return {}; }

  template <typename Real, typename... Arguments>
  static Error LatticeCost(Context pool, const LatticeLayout& layout, Arguments... arguments) {
    cpu::LatticeCost<Real>(layout, arguments..., Loop(pool));
    return Error::Success();
  }

  static ScratchCounts<0> WalkScratch(int64_t, const LatticeLayout&) { return {}; }

  template <typename Real, typename... Arguments>
  static Error LatticeForward(Context pool, const LatticeLayout& layout, Arguments... arguments) {
    cpu::LatticeForward<Real>(layout, arguments..., Loop(pool));
    return Error::Success();
  }

  template <typename Real, typename... Arguments>
  static Error LatticeBackward(Context pool, const LatticeLayout& layout, Arguments... arguments) {
    cpu::LatticeBackward<Real>(layout, arguments..., Loop(pool));
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

}  // namespace

NB_MODULE(_cpu, module) {
  DefineModule(module, {{"pick_forward", kPickForward},
                        {"pick_backward", kPickBackward},
                        {"pick_forward_columns", kPickForwardColumns},
                        {"pick_backward_columns", kPickBackwardColumns},
                        {"lattice_cost", kLatticeCost},
                        {"lattice_forward", kLatticeForward},
                        {"lattice_backward", kLatticeBackward},
                        {"lattice_cost_compact", kLatticeCostCompact},
                        {"lattice_forward_compact", kLatticeForwardCompact},
                        {"lattice_backward_compact", kLatticeBackwardCompact}});
  module.def("instruction_set", [] { return cpu::IsaName(cpu::BestIsa()); });
}

}  // namespace jax_rnnt::ffi
