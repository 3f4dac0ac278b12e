// jax_rnnt._cuda: the custom calls on CUDA. Nothing here needs a GPU to be loaded.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <string>

#include "cuda/joint/add_blocks.h"
#include "cuda/joint/forward.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/hidden.h"
#include "cuda/joint/pack.h"
#include "cuda/lattice/lattice.h"
#include "cuda/rows/pick.h"
#include "ffi/blocks.h"
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

  static ScratchCounts<2> CostScratch(int64_t cells, const LatticeLayout& layout, AnyBuffer& cuts,
                                      AnyBuffer& boundaries) {
    const int64_t columns = Times({layout.sequences, layout.max_columns, 2});
    return {{{&cuts, layout.compact() ? cells : columns},
             {&boundaries, CountBoundaries(cells, layout)}}};
  }

  template <typename Real, typename... Arguments>
  static Error LatticeCost(Context stream, const LatticeLayout& layout, Arguments... arguments) {
    return FromCuda(cuda::LatticeCost<Real>(stream, layout, arguments...));
  }

  static ScratchCounts<1> WalkScratch(int64_t cells, const LatticeLayout& layout,
                                      AnyBuffer& boundaries) {
    return {{{&boundaries, CountBoundaries(cells, layout)}}};
  }

  template <typename Real, typename... Arguments>
  static Error LatticeForward(Context stream, const LatticeLayout& layout, Arguments... arguments) {
    return FromCuda(cuda::LatticeForward<Real>(stream, layout, arguments...));
  }

  template <typename Real, typename... Arguments>
  static Error LatticeBackward(Context stream, const LatticeLayout& layout,
                               Arguments... arguments) {
    return FromCuda(cuda::LatticeBackward<Real>(stream, layout, arguments...));
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

 private:
  static int64_t CountBoundaries(int64_t cells, const LatticeLayout& layout) {
    return layout.compact() ? cells : Times({layout.sequences, layout.max_frames, 2});
  }
};

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
JAX_RNNT_DEFINE_HANDLER(kLatticeCost, Padded<LatticeCost<CudaBackend>>(),
                        BindLatticeCost(BindPadded<Stream>())
                            .Ret<AnyBuffer>()    // scratch: cuts (..., 2, U, 2)
                            .Ret<AnyBuffer>());  // scratch: boundaries (..., T, 2, 2)
JAX_RNNT_DEFINE_HANDLER(kLatticeForward, Padded<LatticeForward<CudaBackend>>(),
                        BindLatticeForward(BindPadded<Stream>())
                            .Ret<AnyBuffer>());  // scratch: boundaries (..., T, 2, 2)
JAX_RNNT_DEFINE_HANDLER(kLatticeBackward, Padded<LatticeBackward<CudaBackend>>(),
                        BindLatticeBackward(BindPadded<Stream>())
                            .Ret<AnyBuffer>());  // scratch: boundaries (..., T, 2, 2)
JAX_RNNT_DEFINE_HANDLER(kLatticeCostCompact, Compact<LatticeCost<CudaBackend>>(),
                        BindLatticeCost(BindCompact<Stream>())
                            .Ret<AnyBuffer>()    // scratch: cuts (..., S, 2)
                            .Ret<AnyBuffer>());  // scratch: boundaries (..., S, 2)
JAX_RNNT_DEFINE_HANDLER(
    kLatticeForwardCompact, Compact<LatticeForward<CudaBackend>>(),
    BindLatticeForward(BindCompact<Stream>()).Ret<AnyBuffer>());  // scratch: boundaries (..., S, 2)
JAX_RNNT_DEFINE_HANDLER(kLatticeBackwardCompact, Compact<LatticeBackward<CudaBackend>>(),
                        BindLatticeBackward(BindCompact<Stream>())
                            .Ret<AnyBuffer>());  // scratch: boundaries (..., S, 2)
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
                        {"lattice_cost", kLatticeCost},
                        {"lattice_forward", kLatticeForward},
                        {"lattice_backward", kLatticeBackward},
                        {"lattice_cost_compact", kLatticeCostCompact},
                        {"lattice_forward_compact", kLatticeForwardCompact},
                        {"lattice_backward_compact", kLatticeBackwardCompact},
                        {"joint_pack", kJointPack},
                        {"joint_forward", kJointForward},
                        {"joint_gradients", kJointGradients},
                        {"joint_hidden", kJointHidden},
                        {"add_blocks", kAddBlocks}});
  module.def("joint_packed_sizes", [](int32_t H, int32_t V) {
    const cuda::JointPackedBytes bytes = cuda::PackedJointBytes(H, V);
    return bytes.kernel == 0 ? nanobind::object(nanobind::none())
                             : nanobind::object(nanobind::make_tuple(bytes.kernel, bytes.bias));
  });
  module.def("architectures", [] { return JAX_RNNT_CUDA_ARCHITECTURES; });
  module.def("toolkit_version", [] { return CudaVersion(CUDART_VERSION); });
  module.def("driver_version", [] {
    int version = 0;
    cudaDriverGetVersion(&version);  // leaves 0 where there is no driver
    return CudaVersion(version);
  });
}

}  // namespace jax_rnnt::ffi
