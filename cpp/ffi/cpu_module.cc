// jax_rnnt._cpu: the custom calls on CPU.
#include <array>
#include <utility>

#include "core/half.h"
#include "cpu/isa.h"
#include "cpu/lattice.h"
#include "cpu/parallel_for.h"
#include "cpu/pick.h"
#include "ffi/handlers.h"
#include "ffi/module.h"

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

  template <typename Real, typename... Arguments>
  static Error LatticeCost(Context pool, const LatticeLayout& layout, Arguments... arguments) {
    cpu::LatticeCost<Real>(layout, arguments..., Loop(pool));
    return Error::Success();
  }

  static std::array<std::pair<AnyBuffer*, int64_t>, 1> ScratchCounts(int64_t cells,
                                                                     const LatticeLayout&,
                                                                     AnyBuffer& alphas) {
    return {{{&alphas, cells}}};
  }

  template <typename Real, typename... Arguments>
  static Error LatticePosteriors(Context pool, const LatticeLayout& layout,
                                 Arguments... arguments) {
    cpu::LatticePosteriors<Real>(layout, arguments..., Loop(pool));
    return Error::Success();
  }
};

XLA_FFI_DEFINE_HANDLER(kPickForward, PickForward<CpuBackend>,
                       xla::ffi::Ffi::Bind()
                           .Ctx<xla::ffi::ThreadPool>()
                           .Arg<AnyBuffer>()    // logits (..., V)
                           .Arg<Int32Buffer>()  // labels (...)
                           .Ret<AnyBuffer>()    // blank_log_probs (...)
                           .Ret<AnyBuffer>()    // label_log_probs (...)
                           .Ret<AnyBuffer>()    // maxima (...)
                           .Ret<AnyBuffer>()    // log_sums (...)
                           .Attr<int64_t>("blank"));

XLA_FFI_DEFINE_HANDLER(kPickBackward, PickBackward<CpuBackend>,
                       xla::ffi::Ffi::Bind()
                           .Ctx<xla::ffi::ThreadPool>()
                           .Arg<AnyBuffer>()    // logits (..., V)
                           .Arg<Int32Buffer>()  // labels (...)
                           .Arg<AnyBuffer>()    // maxima (...)
                           .Arg<AnyBuffer>()    // log_sums (...)
                           .Arg<AnyBuffer>()    // blank_cotangents (...)
                           .Arg<AnyBuffer>()    // label_cotangents (...)
                           .Ret<AnyBuffer>()    // logits_cotangents (..., V)
                           .Attr<int64_t>("blank"));

XLA_FFI_DEFINE_HANDLER(kLatticeCost, LatticeCostPadded<CpuBackend>,
                       xla::ffi::Ffi::Bind()
                           .Ctx<xla::ffi::ThreadPool>()
                           .Arg<AnyBuffer>()     // blank_log_probs (..., T, U)
                           .Arg<AnyBuffer>()     // label_log_probs (..., T, U)
                           .Arg<Int32Buffer>()   // frames_lengths (...)
                           .Arg<Int32Buffer>()   // labels_lengths (...)
                           .Ret<AnyBuffer>());   // costs (...)

XLA_FFI_DEFINE_HANDLER(kLatticePosteriors, (LatticePosteriorsPadded<CpuBackend, AnyResult>),
                       xla::ffi::Ffi::Bind()
                           .Ctx<xla::ffi::ThreadPool>()
                           .Arg<AnyBuffer>()    // blank_log_probs (..., T, U)
                           .Arg<AnyBuffer>()    // label_log_probs (..., T, U)
                           .Arg<Int32Buffer>()  // frames_lengths (...)
                           .Arg<Int32Buffer>()  // labels_lengths (...)
                           .Ret<AnyBuffer>()    // costs (...)
                           .Ret<AnyBuffer>()    // blank_posteriors (..., T, U)
                           .Ret<AnyBuffer>()    // label_posteriors (..., T, U)
                           .Ret<AnyBuffer>());  // scratch: alphas (..., T, U, 2)

XLA_FFI_DEFINE_HANDLER(kLatticeCostCompact, LatticeCostCompact<CpuBackend>,
                       xla::ffi::Ffi::Bind()
                           .Ctx<xla::ffi::ThreadPool>()
                           .Arg<AnyBuffer>()    // blank_log_probs (..., S)
                           .Arg<AnyBuffer>()    // label_log_probs (..., S)
                           .Arg<Int32Buffer>()  // frames_lengths (..., N)
                           .Arg<Int32Buffer>()  // labels_lengths (..., N)
                           .Arg<Int32Buffer>()  // offsets (..., N)
                           .Ret<AnyBuffer>()    // costs (..., N)
                           .Attr<int64_t>("max_labels"));

XLA_FFI_DEFINE_HANDLER(kLatticePosteriorsCompact, (LatticePosteriorsCompact<CpuBackend, AnyResult>),
                       xla::ffi::Ffi::Bind()
                           .Ctx<xla::ffi::ThreadPool>()
                           .Arg<AnyBuffer>()    // blank_log_probs (..., S)
                           .Arg<AnyBuffer>()    // label_log_probs (..., S)
                           .Arg<Int32Buffer>()  // frames_lengths (..., N)
                           .Arg<Int32Buffer>()  // labels_lengths (..., N)
                           .Arg<Int32Buffer>()  // offsets (..., N)
                           .Ret<AnyBuffer>()    // costs (..., N)
                           .Ret<AnyBuffer>()    // blank_posteriors (..., S)
                           .Ret<AnyBuffer>()    // label_posteriors (..., S)
                           .Ret<AnyBuffer>()    // scratch: alphas (..., S, 2)
                           .Attr<int64_t>("max_labels"));

}  // namespace

NB_MODULE(_cpu, module) {
  DefineVersions(module);
  module.def("instruction_set", [] { return cpu::IsaName(cpu::BestIsa()); });
  module.def("registrations", [] {
    nb::dict targets;
    targets["pick_forward"] = Capsule(kPickForward);
    targets["pick_backward"] = Capsule(kPickBackward);
    targets["lattice_cost"] = Capsule(kLatticeCost);
    targets["lattice_posteriors"] = Capsule(kLatticePosteriors);
    targets["lattice_cost_compact"] = Capsule(kLatticeCostCompact);
    targets["lattice_posteriors_compact"] = Capsule(kLatticePosteriorsCompact);
    return targets;
  });
}

}  // namespace jax_rnnt::ffi
