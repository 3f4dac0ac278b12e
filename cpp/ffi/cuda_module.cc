// jax_rnnt._cuda: the custom calls on CUDA. Nothing here needs a GPU to be loaded.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "cuda/joint/add_blocks.h"
#include "cuda/joint/forward.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/hidden.h"
#include "cuda/joint/pack.h"
#include "cuda/lattice/align.h"
#include "cuda/lattice/arcs.h"
#include "cuda/rows/entries.h"
#include "cuda/rows/pick.h"
#include "ffi/align.h"
#include "ffi/arcs.h"
#include "ffi/blocks.h"
#include "ffi/entries.h"
#include "ffi/entries_biased.h"
#include "ffi/joint.h"
#include "ffi/lattice.h"
#include "ffi/module.h"
#include "ffi/rows.h"

namespace jax_rnnt::ffi {
namespace {

using Stream = xla::ffi::PlatformStream<cudaStream_t>;

Error FromCuda(cudaError_t error) {
  if (error == cudaSuccess) return Error::Success();
  return Error(ErrorCode::kInternal, std::string("jax_rnnt: CUDA: ") + cudaGetErrorString(error));
}

struct CudaBackend {
  using Context = cudaStream_t;
  using BFloat16 = __nv_bfloat16;
  using Float16 = __half;

  template <typename T, typename Real, typename... Arguments>
  static Error PickForward(Context stream, Arguments... arguments) {
    return FromCuda(cuda::PickForward<T>(stream, arguments...));
  }

  template <typename T, typename Real, typename... Arguments>
  static Error PickBackward(Context stream, Arguments... arguments) {
    return FromCuda(cuda::PickBackward<T>(stream, arguments...));
  }

  template <typename T, typename Real, typename... Arguments>
  static Error EntriesForward(Context stream, Arguments... arguments) {
    return FromCuda(cuda::EntriesForward<T>(stream, arguments...));
  }

  template <typename T, typename Real, typename... Arguments>
  static Error EntriesBackward(Context stream, Arguments... arguments) {
    return FromCuda(cuda::EntriesBackward<T>(stream, arguments...));
  }

  template <typename Real, typename... Arguments>
  static Error EntriesForwardBiased(Context stream, Arguments... arguments) {
    return FromCuda(cuda::EntriesForwardBiased<Real>(stream, arguments...));
  }

  template <typename T, typename Real, typename... Arguments>
  static Error EntriesBackwardBiased(Context stream, Arguments... arguments) {
    return FromCuda(cuda::EntriesBackwardBiased<T>(stream, arguments...));
  }

  static ScratchCounts<3> ArcsCostScratch(int64_t cells, const LatticeLayout& layout,
                                          AnyBuffer& alphas, AnyBuffer& totals, AnyBuffer& status) {
    return {{{&alphas, cells}, {&totals, layout.sequences}, {&status, layout.sequences}}};
  }

  template <typename Real>
  static Error ArcsCost(Context stream, const LatticeLayout& layout, const ArcTopology& topology,
                        const ArcArrays<Real>& arrays, Real* costs, Scaled<Real>* alphas,
                        Scaled<Real>* totals, Scaled<Real>* status) {
    return FromCuda(cuda::ArcsCost<Real>(stream, layout, topology, arrays, costs, alphas, totals,
                                         reinterpret_cast<Real*>(status)));
  }

  static ScratchCounts<1> ArcsForwardScratch(int64_t, const LatticeLayout& layout,
                                             AnyBuffer& status) {
    return {{{&status, layout.sequences}}};
  }

  template <typename Real>
  static Error ArcsForward(Context stream, const LatticeLayout& layout, const ArcTopology& topology,
                           const ArcArrays<Real>& arrays, Real* costs, Scaled<Real>* alphas,
                           Scaled<Real>* betas, Scaled<Real>* totals, Scaled<Real>* status) {
    return FromCuda(cuda::ArcsForward<Real>(stream, layout, topology, arrays, costs, alphas, betas,
                                            totals, reinterpret_cast<Real*>(status)));
  }

  template <typename Real, typename... Arguments>
  static Error ArcsBackward(Context stream, const LatticeLayout& layout, Arguments... arguments) {
    return FromCuda(cuda::ArcsBackward<Real>(stream, layout, arguments...));
  }

  // The RNN-T lattice is the one of its two arcs.
  static constexpr ArcTopology kStandard = {2, {1, 0}, {0, 1}, {true, false}};

  static ScratchCounts<3> CostScratch(int64_t cells, const LatticeLayout& layout, AnyBuffer& alphas,
                                      AnyBuffer& totals, AnyBuffer& status) {
    return ArcsCostScratch(cells, layout, alphas, totals, status);
  }

  template <typename Real, typename... Arguments>
  static Error LatticeCost(Context stream, const LatticeLayout& layout, const Real* blank_log_probs,
                           const Real* label_log_probs, Arguments... arguments) {
    return ArcsCost<Real>(stream, layout, kStandard, {{blank_log_probs, label_log_probs}},
                          arguments...);
  }

  static ScratchCounts<1> WalkScratch(int64_t cells, const LatticeLayout& layout,
                                      AnyBuffer& status) {
    return ArcsForwardScratch(cells, layout, status);
  }

  template <typename Real, typename... Arguments>
  static Error LatticeForward(Context stream, const LatticeLayout& layout,
                              const Real* blank_log_probs, const Real* label_log_probs,
                              Arguments... arguments) {
    return ArcsForward<Real>(stream, layout, kStandard, {{blank_log_probs, label_log_probs}},
                             arguments...);
  }

  template <typename Real>
  static Error LatticeBackward(Context stream, const LatticeLayout& layout, int64_t cells,
                               const Real* blank_log_probs, const Real* label_log_probs,
                               const Scaled<Real>* alphas, const Scaled<Real>* betas,
                               const Scaled<Real>* totals, const Real* cotangents,
                               Real* blank_cotangents, Real* label_cotangents) {
    Real* const arc_cotangents[] = {blank_cotangents, label_cotangents};
    return ArcsBackward<Real>(stream, layout, cells, kStandard,
                              ArcArrays<Real>{{blank_log_probs, label_log_probs}}, alphas, betas,
                              totals, cotangents, arc_cotangents, nullptr, nullptr);
  }

  static ScratchCounts<1> AlignScratch(const LatticeLayout& layout, AnyBuffer& between) {
    const int64_t groups =
        layout.compact() ? layout.sequences / layout.sequences_per_group : layout.sequences;
    return {{{&between, Times({groups, cuda::CountAlignScratch(layout)})}}};
  }

  template <typename Real, typename... Arguments>
  static Error LatticeAlign(Context stream, const LatticeLayout& layout, Arguments... arguments) {
    return FromCuda(cuda::LatticeAlign<Real>(stream, layout, arguments...));
  }

  template <typename Real, typename... Arguments>
  static Error LatticeTrace(Context stream, const PathWordsLayout& layout, Arguments... arguments) {
    return FromCuda(cuda::LatticeTrace<Real>(stream, layout, arguments...));
  }

  template <typename... Arguments>
  static Error JointPack(Context stream, Arguments... arguments) {
    return FromCuda(cuda::JointPack(stream, arguments...));
  }

  template <typename... Arguments>
  static Error JointForward(Context stream, Arguments... arguments) {
    return FromCuda(cuda::JointForward(stream, arguments...));
  }

  template <typename... Arguments>
  static Error JointGradients(Context stream, Arguments... arguments) {
    return FromCuda(cuda::JointGradients(stream, arguments...));
  }

  template <typename... Arguments>
  static Error JointHidden(Context stream, Arguments... arguments) {
    return FromCuda(cuda::JointHidden(stream, arguments...));
  }

  template <typename... Arguments>
  static Error AddBlocks(Context stream, Arguments... arguments) {
    return FromCuda(cuda::AddBlocks(stream, arguments...));
  }
};

// The scratch buffers of lattices: pairs for each cell or sequence of the layout.
template <typename Binding>
auto BindCostScratch(Binding&& binding) {
  return std::move(binding)
      .template Ret<AnyBuffer>()   // alphas, a pair for each cell
      .template Ret<AnyBuffer>()   // totals, a pair for each sequence
      .template Ret<AnyBuffer>();  // status, two for each sequence
}

template <typename Binding>
auto BindForwardScratch(Binding&& binding) {
  return std::move(binding).template Ret<AnyBuffer>();  // status, two for each sequence
}

template <typename Binding>
auto BindAlignScratch(Binding&& binding) {
  return std::move(binding).template Ret<AnyBuffer>();  // a column's scores, one a frame
}

// Every handler may be part of a command buffer, XLA's CUDA graph: none synchronises, allocates or
// copies to the host.
#define JAX_RNNT_DEFINE_HANDLER(name, function, binding) \
  XLA_FFI_DEFINE_HANDLER(name, function, binding, {xla::ffi::Traits::kCmdBufferCompatible})

JAX_RNNT_DEFINE_HANDLER(kPickForward, (PickForward<CudaBackend, Int32Buffer>),
                        BindPickForward(BindRows<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kPickForwardColumns, (PickForward<CudaBackend, Int32Buffer, Int32Buffer>),
                        BindPickForward(BindColumns<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kPickBackward, (PickBackward<CudaBackend, Int32Buffer>),
                        BindPickBackward(BindRows<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kPickBackwardColumns, (PickBackward<CudaBackend, Int32Buffer, Int32Buffer>),
                        BindPickBackward(BindColumns<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kEntriesForward, (EntriesForward<CudaBackend, Int32Buffer>),
                        BindEntriesForward(BindRows<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kEntriesForwardColumns,
                        (EntriesForward<CudaBackend, Int32Buffer, Int32Buffer>),
                        BindEntriesForward(BindColumns<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kEntriesBackward, (EntriesBackward<CudaBackend, Int32Buffer>),
                        BindEntriesBackward(BindRows<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kEntriesBackwardColumns,
                        (EntriesBackward<CudaBackend, Int32Buffer, Int32Buffer>),
                        BindEntriesBackward(BindColumns<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kEntriesForwardBiased, EntriesForwardBiased<CudaBackend>,
                        BindEntriesForwardBiased<Stream>());
JAX_RNNT_DEFINE_HANDLER(kEntriesBackwardBiased, EntriesBackwardBiased<CudaBackend>,
                        BindEntriesBackwardBiased<Stream>());
JAX_RNNT_DEFINE_HANDLER(kLatticeCost, Padded<LatticeCost<CudaBackend>>(),
                        BindCostScratch(BindLatticeCost(BindPadded<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kLatticeForward, Padded<LatticeForward<CudaBackend>>(),
                        BindForwardScratch(BindLatticeForward(BindPadded<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kLatticeBackward, Padded<LatticeBackward<CudaBackend>>(),
                        BindLatticeBackward(BindPadded<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kLatticeCostCompact, Compact<LatticeCost<CudaBackend>>(),
                        BindCostScratch(BindLatticeCost(BindCompact<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kLatticeForwardCompact, Compact<LatticeForward<CudaBackend>>(),
                        BindForwardScratch(BindLatticeForward(BindCompact<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kLatticeBackwardCompact, Compact<LatticeBackward<CudaBackend>>(),
                        BindLatticeBackward(BindCompact<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kArcsCost, PaddedArcs<ArcsCost<CudaBackend>>(),
                        BindCostScratch(BindArcsCost(BindPaddedArcs<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kArcsForward, PaddedArcs<ArcsForward<CudaBackend>>(),
                        BindForwardScratch(BindArcsForward(BindPaddedArcs<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kArcsBackward, PaddedArcs<ArcsBackward<CudaBackend>>(),
                        BindArcsBackward(BindPaddedArcs<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kArcsCostCompact, CompactArcs<ArcsCost<CudaBackend>>(),
                        BindCostScratch(BindArcsCost(BindCompactArcs<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kArcsForwardCompact, CompactArcs<ArcsForward<CudaBackend>>(),
                        BindForwardScratch(BindArcsForward(BindCompactArcs<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kArcsBackwardCompact, CompactArcs<ArcsBackward<CudaBackend>>(),
                        BindArcsBackward(BindCompactArcs<Stream>()));
JAX_RNNT_DEFINE_HANDLER(kLatticeAlign, Padded<LatticeAlign<CudaBackend>>(),
                        BindAlignScratch(BindLatticeAlign(BindPadded<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kLatticeAlignCompact, Compact<LatticeAlign<CudaBackend>>(),
                        BindAlignScratch(BindLatticeAlign(BindCompact<Stream>())));
JAX_RNNT_DEFINE_HANDLER(kLatticeTrace, PaddedTrace<CudaBackend>, BindPaddedTrace<Stream>());
JAX_RNNT_DEFINE_HANDLER(kLatticeTraceCompact, CompactTrace<CudaBackend>,
                        BindCompactTrace<Stream>());
JAX_RNNT_DEFINE_HANDLER(kJointPack, JointPack<CudaBackend>, BindJointPack<Stream>());
JAX_RNNT_DEFINE_HANDLER(kJointForward, JointForward<CudaBackend>, BindJointForward<Stream>());
JAX_RNNT_DEFINE_HANDLER(kJointGradients, JointGradients<CudaBackend>, BindJointGradients<Stream>());
JAX_RNNT_DEFINE_HANDLER(kJointHidden, JointHidden<CudaBackend>, BindJointHidden<Stream>());
JAX_RNNT_DEFINE_HANDLER(kAddBlocks, AddBlocks<CudaBackend>, BindAddBlocks<Stream>());
#undef JAX_RNNT_DEFINE_HANDLER

nanobind::tuple CudaVersion(int version) {
  return nanobind::make_tuple(version / 1000, version % 1000 / 10);
}

}  // namespace

NB_MODULE(_cuda, module) {
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
                        {"lattice_trace_compact", kLatticeTraceCompact},
                        {"joint_pack", kJointPack},
                        {"joint_forward", kJointForward},
                        {"joint_gradients", kJointGradients},
                        {"joint_hidden", kJointHidden},
                        {"add_blocks", kAddBlocks}});
  module.def("joint_packed_sizes", [](int capability, int32_t H, int32_t W) {
    const cuda::JointPackedBytes bytes = cuda::PackedJointBytes(cuda::TargetOf(capability), H, W);
    return bytes.kernel == 0 ? nanobind::object(nanobind::none())
                             : nanobind::object(nanobind::make_tuple(bytes.kernel, bytes.bias));
  });
  module.def("joint_bias_parts",
             [](int capability) { return cuda::BiasParts(cuda::TargetOf(capability).products); });
  module.def("architectures", [] { return JAX_RNNT_CUDA_ARCHITECTURES; });
  module.def("joint_architectures", [] { return JAX_RNNT_JOINT_ARCHITECTURES; });
  module.def("toolkit_version", [] { return CudaVersion(CUDART_VERSION); });
  module.def("driver_version", [] {
    int version = 0;
    cudaDriverGetVersion(&version);  // leaves 0 where there is no driver
    return CudaVersion(version);
  });
}

}  // namespace jax_rnnt::ffi
