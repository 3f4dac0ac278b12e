// jax_rnnt._cuda: the custom calls on CUDA. Nothing here needs a GPU to be loaded.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <string>

#include "cuda/lattice.h"
#include "cuda/pick.h"
#include "ffi/bindings.h"
#include "ffi/handlers.h"
#include "ffi/module.h"

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

  static ScratchCounts<1> CostScratch(int64_t cells, const LatticeLayout& layout,
                                      AnyBuffer& boundaries) {
    const int64_t padded = layout.sequences * layout.max_frames * 2;
    return {{{&boundaries, layout.compact() ? cells : padded}}};
  }

  template <typename Real, typename... Arguments>
  static Error LatticeCost(Context stream, const LatticeLayout& layout, Arguments... arguments) {
    return FromCuda(cuda::LatticeCost<Real>(stream, layout, arguments...));
  }

  static ScratchCounts<3> PosteriorsScratch(int64_t cells, const LatticeLayout& layout,
                                            AnyBuffer& alphas, AnyBuffer& betas,
                                            AnyBuffer& totals) {
    return {{{&alphas, cells}, {&betas, cells}, {&totals, layout.sequences}}};
  }

  template <typename Real, typename... Arguments>
  static Error LatticePosteriors(Context stream, const LatticeLayout& layout,
                                 Arguments... arguments) {
    return FromCuda(cuda::LatticePosteriors<Real>(stream, layout, arguments...));
  }
};

// Fit for command buffers: no handler synchronises, allocates or copies to the host.
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
JAX_RNNT_DEFINE_HANDLER(
    kLatticeCost, (LatticeCostPadded<CudaBackend, AnyResult>),
    BindLatticeCost<Stream>().Ret<AnyBuffer>());  // scratch: boundaries (..., T, 4)
JAX_RNNT_DEFINE_HANDLER(kLatticePosteriors,
                        (LatticePosteriorsPadded<CudaBackend, AnyResult, AnyResult, AnyResult>),
                        BindLatticePosteriors<Stream>()
                            .Ret<AnyBuffer>()    // scratch: alphas (..., T, U, 2)
                            .Ret<AnyBuffer>()    // scratch: betas (..., T, U, 2)
                            .Ret<AnyBuffer>());  // scratch: totals (..., 2)
JAX_RNNT_DEFINE_HANDLER(kLatticeCostCompact, (LatticeCostCompact<CudaBackend, AnyResult>),
                        BindLatticeCostCompact<Stream>()
                            .Ret<AnyBuffer>()  // scratch: boundaries (..., S, 2)
                            .Attr<int64_t>("max_labels"));
JAX_RNNT_DEFINE_HANDLER(kLatticePosteriorsCompact,
                        (LatticePosteriorsCompact<CudaBackend, AnyResult, AnyResult, AnyResult>),
                        BindLatticePosteriorsCompact<Stream>()
                            .Ret<AnyBuffer>()  // scratch: alphas (..., S, 2)
                            .Ret<AnyBuffer>()  // scratch: betas (..., S, 2)
                            .Ret<AnyBuffer>()  // scratch: totals (..., N, 2)
                            .Attr<int64_t>("max_labels"));
#undef JAX_RNNT_DEFINE_HANDLER

}  // namespace

NB_MODULE(_cuda, module) {
  DefineModule(
      module, {kPickForward, kPickBackward, kPickForwardColumns, kPickBackwardColumns, kLatticeCost,
               kLatticePosteriors, kLatticeCostCompact, kLatticePosteriorsCompact});
  module.def("architectures", [] { return JAX_RNNT_CUDA_ARCHITECTURES; });
  module.def("cuda_version", [] { return JAX_RNNT_CUDA_VERSION; });
}

}  // namespace jax_rnnt::ffi
