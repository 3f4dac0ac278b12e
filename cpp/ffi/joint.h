// The custom calls of the joint network, which CUDA alone has: joint_pack, joint_forward,
// joint_gradients, joint_hidden and add_blocks.
//
// A Backend has JointPack, JointForward, JointGradients, JointHidden and AddBlocks.
#ifndef JAX_RNNT_FFI_JOINT_H_
#define JAX_RNNT_FFI_JOINT_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/shape.h"
#include "ffi/buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

inline std::optional<cuda::Activation> ActivationByName(std::string_view name) {
  if (name == "none") return cuda::Activation::kNone;
  if (name == "tanh") return cuda::Activation::kTanh;
  if (name == "relu") return cuda::Activation::kRelu;
  if (name == "silu") return cuda::Activation::kSilu;
  if (name == "gelu") return cuda::Activation::kGelu;
  return std::nullopt;
}

// An error unless the name is of an activation and the blank in [0, V).
inline Error CheckOptions(std::string_view activation, int64_t blank, int64_t V) {
  if (ActivationByName(activation) && blank >= 0 && blank < V) return Error::Success();
  return Error(ErrorCode::kInvalidArgument,
               "jax_rnnt: activation must be a name that has a kernel, blank in [0, V).");
}

// Calls body(TypeTag<T>()) for the 16-bit type T that is dtype.
template <typename Backend, typename Body>
Error DispatchHalves(DataType dtype, const Body& body) {
  switch (dtype) {
    case DataType::BF16:
      return body(TypeTag<typename Backend::BFloat16>());
    case DataType::F16:
      return body(TypeTag<typename Backend::Float16>());
    default:
      return WrongBuffer("encoder", "bfloat16 or float16");
  }
}

// Makes the shape of a joint network from encoder (N, T, H), predictor (N, U, H) and the number of
// symbols V, and checks its labels (N, U) and counts (N).
inline Error MakeShape(const AnyBuffer& encoder, const AnyBuffer& predictor, int64_t V,
                       const Int32Buffer& labels, const Int32Buffer& counts,
                       cuda::JointShape* shape) {
  if (encoder.dimensions().size() != 3 || predictor.dimensions().size() != 3) {
    return WrongBuffer("encoder", "(N, T, H), with a predictor (N, U, H)");
  }
  const int64_t N = encoder.dimensions()[0], T = encoder.dimensions()[1];
  const int64_t H = encoder.dimensions()[2], U = predictor.dimensions()[1];
  if (std::max({N, T, U, H, V}) > std::numeric_limits<int32_t>::max()) {
    return WrongBuffer("encoder", "of dimensions below 2^31");
  }
  JAX_RNNT_RETURN_IF_ERROR(Check("predictor", predictor, encoder.element_type(), Times({N, U, H})));
  JAX_RNNT_RETURN_IF_ERROR(Check("labels", labels, DataType::S32, Times({N, U})));
  JAX_RNNT_RETURN_IF_ERROR(Check("counts", counts, DataType::S32, N));
  *shape = {static_cast<int32_t>(N), static_cast<int32_t>(T), static_cast<int32_t>(U),
            static_cast<int32_t>(H), static_cast<int32_t>(V)};
  return Error::Success();
}

// An error unless the two buffers have the size of the kernel and bias that joint_pack packs.
template <typename Buffer>
Error CheckPacked(const cuda::JointShape& shape, Buffer& packed_kernel, Buffer& packed_bias) {
  const cuda::JointPackedBytes bytes = cuda::PackedJointBytes(shape.H, shape.V);
  if (bytes.kernel == 0) return WrongBuffer("kernel", "of an H that the kernels take");
  JAX_RNNT_RETURN_IF_ERROR(Check("packed_kernel", packed_kernel, DataType::U32, bytes.kernel / 4));
  return Check("packed_bias", packed_bias, DataType::U32, bytes.bias / 4);
}

// The operands that joint_forward and joint_gradients begin with. MakeShape checks them.
struct JointBuffers {
  AnyBuffer encoder;
  AnyBuffer predictor;
  AnyBuffer kernel;
  AnyBuffer packed_kernel;
  AnyBuffer packed_bias;
  Int32Buffer labels;
  Int32Buffer counts;

  Error MakeShape(cuda::JointShape* shape) const {
    if (kernel.dimensions().size() != 2) return WrongBuffer("kernel", "(H, V)");
    JAX_RNNT_RETURN_IF_ERROR(
        ffi::MakeShape(encoder, predictor, kernel.dimensions()[1], labels, counts, shape));
    if (kernel.dimensions()[0] != shape->H) return WrongBuffer("kernel", "(H, V)");
    JAX_RNNT_RETURN_IF_ERROR(
        Check("kernel", kernel, encoder.element_type(), Times({shape->H, shape->V})));
    return CheckPacked(*shape, packed_kernel, packed_bias);
  }
};

// The buffers of JointBuffers.
template <typename Context>
auto BindJoint() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()     // encoder (N, T, H)
      .template Arg<AnyBuffer>()     // predictor (N, U, H)
      .template Arg<AnyBuffer>()     // kernel (H, V), for its shape
      .template Arg<AnyBuffer>()     // packed_kernel
      .template Arg<AnyBuffer>()     // packed_bias
      .template Arg<Int32Buffer>()   // labels (N, U)
      .template Arg<Int32Buffer>();  // counts (N)
}

template <typename Backend>
Error JointPack(typename Backend::Context context, AnyBuffer kernel, AnyBuffer bias,
                AnyResult packed_kernel, AnyResult packed_bias) {
  if (kernel.dimensions().size() != 2) return WrongBuffer("kernel", "(H, V)");
  const int64_t H = kernel.dimensions()[0], V = kernel.dimensions()[1];
  if (std::max(H, V) > std::numeric_limits<int32_t>::max()) {
    return WrongBuffer("kernel", "of dimensions below 2^31");
  }
  JAX_RNNT_RETURN_IF_ERROR(Check("bias", bias, kernel.element_type(), V));
  const cuda::JointShape shape{1, 1, 1, static_cast<int32_t>(H), static_cast<int32_t>(V)};
  JAX_RNNT_RETURN_IF_ERROR(CheckPacked(shape, *packed_kernel, *packed_bias));
  return DispatchHalves<Backend>(kernel.element_type(), [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return Backend::JointPack(context, shape.H, shape.V, Data<const T>(kernel), Data<const T>(bias),
                              packed_kernel->untyped_data(), Data<float>(*packed_bias));
  });
}

template <typename Context>
auto BindJointPack() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()   // kernel (H, V)
      .template Arg<AnyBuffer>()   // bias (V)
      .template Ret<AnyBuffer>()   // packed_kernel
      .template Ret<AnyBuffer>();  // packed_bias
}

template <typename Backend>
Error JointForward(typename Backend::Context context, AnyBuffer encoder, AnyBuffer predictor,
                   AnyBuffer kernel, AnyBuffer packed_kernel, AnyBuffer packed_bias,
                   Int32Buffer labels, Int32Buffer counts, AnyResult blank_log_probs,
                   AnyResult label_log_probs, AnyResult maxima, AnyResult log_sums,
                   std::string_view activation, int64_t blank) {
  cuda::JointShape shape;
  JAX_RNNT_RETURN_IF_ERROR(
      (JointBuffers{encoder, predictor, kernel, packed_kernel, packed_bias, labels, counts}
           .MakeShape(&shape)));
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, blank, shape.V));
  const int64_t cells = Times({shape.N, shape.T, shape.U});
  JAX_RNNT_RETURN_IF_ERROR(Check("blank_log_probs", *blank_log_probs, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", *label_log_probs, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("maxima", *maxima, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", *log_sums, DataType::F32, cells));
  if (cells == 0) return Error::Success();
  return DispatchHalves<Backend>(encoder.element_type(), [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return Backend::JointForward(
        context, shape, *ActivationByName(activation), static_cast<int32_t>(blank),
        Data<const T>(encoder), Data<const T>(predictor), packed_kernel.untyped_data(),
        Data<const float>(packed_bias), labels.typed_data(), counts.typed_data(),
        Data<float>(*blank_log_probs), Data<float>(*label_log_probs), Data<float>(*maxima),
        Data<float>(*log_sums));
  });
}

template <typename Context>
auto BindJointForward() {
  return BindJoint<Context>()
      .template Ret<AnyBuffer>()  // blank_log_probs (N, T, U)
      .template Ret<AnyBuffer>()  // label_log_probs (N, T, U)
      .template Ret<AnyBuffer>()  // maxima (N, T, U)
      .template Ret<AnyBuffer>()  // log_sums (N, T, U)
      .template Attr<std::string_view>("activation")
      .template Attr<int64_t>("blank");
}

template <typename Backend>
Error JointGradients(typename Backend::Context context, AnyBuffer encoder, AnyBuffer predictor,
                     AnyBuffer kernel, AnyBuffer packed_kernel, AnyBuffer packed_bias,
                     Int32Buffer labels, Int32Buffer counts, Int32Buffer tiles, AnyBuffer maxima,
                     AnyBuffer log_sums, AnyBuffer blank_cotangents, AnyBuffer label_cotangents,
                     AnyResult activations, AnyResult gradients, AnyResult bias_parts,
                     std::string_view activation, int64_t blank) {
  cuda::JointShape shape;
  JAX_RNNT_RETURN_IF_ERROR(
      (JointBuffers{encoder, predictor, kernel, packed_kernel, packed_bias, labels, counts}
           .MakeShape(&shape)));
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, blank, shape.V));
  const int64_t cells = Times({shape.N, shape.T, shape.U});
  JAX_RNNT_RETURN_IF_ERROR(Check("maxima", maxima, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", log_sums, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("blank_cotangents", blank_cotangents, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("label_cotangents", label_cotangents, DataType::F32, cells));
  const DataType dtype = encoder.element_type();
  const int64_t R = tiles.element_count();
  JAX_RNNT_RETURN_IF_ERROR(
      Check("activations", *activations, dtype, Times({R, cuda::kListedCells, shape.H})));
  JAX_RNNT_RETURN_IF_ERROR(
      Check("gradients", *gradients, dtype, Times({R, cuda::kListedCells, shape.V})));
  JAX_RNNT_RETURN_IF_ERROR(
      Check("bias_parts", *bias_parts, DataType::F32, Times({R, cuda::kBiasParts, shape.V})));
  return DispatchHalves<Backend>(dtype, [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return Backend::JointGradients(
        context, shape, *ActivationByName(activation), static_cast<int32_t>(blank), R,
        Data<const T>(encoder), Data<const T>(predictor), packed_kernel.untyped_data(),
        Data<const float>(packed_bias), labels.typed_data(), counts.typed_data(),
        Data<const float>(maxima), Data<const float>(log_sums), Data<const float>(blank_cotangents),
        Data<const float>(label_cotangents), tiles.typed_data(), Data<T>(*gradients),
        Data<T>(*activations), Data<float>(*bias_parts));
  });
}

template <typename Context>
auto BindJointGradients() {
  return BindJoint<Context>()
      .template Arg<Int32Buffer>()  // tiles (R)
      .template Arg<AnyBuffer>()    // maxima (N, T, U)
      .template Arg<AnyBuffer>()    // log_sums (N, T, U)
      .template Arg<AnyBuffer>()    // blank_cotangents (N, T, U)
      .template Arg<AnyBuffer>()    // label_cotangents (N, T, U)
      .template Ret<AnyBuffer>()    // activations (R, 16, 8, H)
      .template Ret<AnyBuffer>()    // gradients (R, 16, 8, V)
      .template Ret<AnyBuffer>()    // bias_parts (R, 8, V)
      .template Attr<std::string_view>("activation")
      .template Attr<int64_t>("blank");
}

template <typename Backend>
Error JointHidden(typename Backend::Context context, AnyBuffer hidden_gradients, AnyBuffer encoder,
                  AnyBuffer predictor, Int32Buffer labels, Int32Buffer counts, Int32Buffer tiles,
                  AnyResult encoder_parts, AnyResult predictor_parts, std::string_view activation,
                  int64_t symbols) {
  cuda::JointShape shape;
  JAX_RNNT_RETURN_IF_ERROR(MakeShape(encoder, predictor, symbols, labels, counts, &shape));
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, 0, symbols));
  const int64_t R = tiles.element_count();
  const DataType dtype = encoder.element_type();
  JAX_RNNT_RETURN_IF_ERROR(
      Check("hidden_gradients", hidden_gradients, dtype, Times({R, cuda::kListedCells, shape.H})));
  JAX_RNNT_RETURN_IF_ERROR(Check("encoder_parts", *encoder_parts, DataType::F32,
                                 Times({R, cuda::kListedFrames, shape.H})));
  JAX_RNNT_RETURN_IF_ERROR(Check("predictor_parts", *predictor_parts, DataType::F32,
                                 Times({R, cuda::kListedColumns, shape.H})));
  return DispatchHalves<Backend>(dtype, [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return Backend::JointHidden(context, shape, *ActivationByName(activation), R,
                                Data<const T>(encoder), Data<const T>(predictor),
                                labels.typed_data(), counts.typed_data(), tiles.typed_data(),
                                Data<const T>(hidden_gradients), Data<float>(*encoder_parts),
                                Data<float>(*predictor_parts));
  });
}

template <typename Context>
auto BindJointHidden() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // hidden_gradients (R, 16, 8, H)
      .template Arg<AnyBuffer>()    // encoder (N, T, H)
      .template Arg<AnyBuffer>()    // predictor (N, U, H)
      .template Arg<Int32Buffer>()  // labels (N, U)
      .template Arg<Int32Buffer>()  // counts (N)
      .template Arg<Int32Buffer>()  // tiles (R)
      .template Ret<AnyBuffer>()    // encoder_parts (R, 16, H)
      .template Ret<AnyBuffer>()    // predictor_parts (R, 8, H)
      .template Attr<std::string_view>("activation")
      .template Attr<int64_t>("symbols");
}

template <typename Backend>
Error AddBlocks(typename Backend::Context context, AnyBuffer sums, Int32Buffer blocks,
                AnyBuffer parts, AnyResult added) {
  if (sums.dimensions().size() != 2) return WrongBuffer("sums", "(B, L)");
  const int64_t B = sums.dimensions()[0], L = sums.dimensions()[1], R = blocks.element_count();
  return DispatchReals("sums", sums, [&](auto real) -> Error {
    using Real = typename decltype(real)::Type;
    JAX_RNNT_RETURN_IF_ERROR(Check("sums", sums, kDataType<Real>, Times({B, L})));
    JAX_RNNT_RETURN_IF_ERROR(Check("parts", parts, kDataType<Real>, Times({R, L})));
    JAX_RNNT_RETURN_IF_ERROR(Check("added", *added, kDataType<Real>, Times({B, L})));
    return Backend::AddBlocks(context, B, L, R, Data<const Real>(sums), blocks.typed_data(),
                              Data<const Real>(parts), Data<Real>(*added));
  });
}

template <typename Context>
auto BindAddBlocks() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // sums (B, L)
      .template Arg<Int32Buffer>()  // blocks (R)
      .template Arg<AnyBuffer>()    // parts (R, L)
      .template Ret<AnyBuffer>();   // added (B, L), which may be sums
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_JOINT_H_
