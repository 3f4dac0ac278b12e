// The joint network's custom call, CUDA's alone: its buffers, their checks, and the call.
#ifndef JAX_RNNT_FFI_JOINT_H_
#define JAX_RNNT_FFI_JOINT_H_

#include <cstdint>
#include <optional>
#include <string_view>

#include "cuda/joint_forward.h"
#include "ffi/handlers.h"
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

template <typename Backend>
Error JointForward(typename Backend::Context stream, AnyBuffer encoder, AnyBuffer predictor,
                   AnyBuffer kernel, AnyBuffer bias, Int32Buffer labels, Int32Buffer counts,
                   AnyResult blank_log_probs, AnyResult label_log_probs, AnyResult maxima,
                   AnyResult log_sums, AnyResult packed_kernel, AnyResult packed_bias,
                   std::string_view activation_name, int64_t blank) {
  if (encoder.dimensions().size() != 3 || predictor.dimensions().size() != 3 ||
      kernel.dimensions().size() != 2) {
    return WrongBuffer("encoder, predictor and kernel", "(N, T, H), (N, U, H) and (H, V)");
  }
  const int64_t sizes[] = {encoder.dimensions()[0], encoder.dimensions()[1],
                           predictor.dimensions()[1], kernel.dimensions()[0],
                           kernel.dimensions()[1]};
  for (const int64_t size : sizes) {
    if (size > std::numeric_limits<int32_t>::max()) {
      return WrongBuffer("encoder, predictor and kernel", "of dimensions below 2^31");
    }
  }
  const auto [N, T, U, H, V] = sizes;
  const cuda::JointShape shape{static_cast<int32_t>(N), static_cast<int32_t>(T),
                               static_cast<int32_t>(U), static_cast<int32_t>(H),
                               static_cast<int32_t>(V)};
  const DataType dtype = encoder.element_type();
  JAX_RNNT_RETURN_IF_ERROR(Check("encoder", encoder, dtype, N * T * H));
  JAX_RNNT_RETURN_IF_ERROR(Check("predictor", predictor, dtype, N * U * H));
  JAX_RNNT_RETURN_IF_ERROR(Check("kernel", kernel, dtype, H * V));
  JAX_RNNT_RETURN_IF_ERROR(Check("bias", bias, dtype, V));
  JAX_RNNT_RETURN_IF_ERROR(Check("labels", labels, DataType::S32, N * U));
  JAX_RNNT_RETURN_IF_ERROR(Check("counts", counts, DataType::S32, N));
  const int64_t cells = N * T * U;
  JAX_RNNT_RETURN_IF_ERROR(Check("blank_log_probs", *blank_log_probs, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", *label_log_probs, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("maxima", *maxima, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", *log_sums, DataType::F32, cells));
  if (!cuda::JointForwardFits(shape)) {
    return WrongBuffer("encoder", "(N, T, H) with an H that shared memory can hold");
  }
  const cuda::JointForwardScratch scratch = cuda::JointForwardScratchBytes(shape);
  if (static_cast<int64_t>(packed_kernel->size_bytes()) < scratch.packed_kernel ||
      static_cast<int64_t>(packed_bias->size_bytes()) < scratch.packed_bias) {
    return WrongBuffer("scratch", "as large as joint_forward_scratch says");
  }
  const std::optional<cuda::Activation> activation = ActivationByName(activation_name);
  if (!activation || blank < 0 || blank >= V) {
    return Error(ErrorCode::kInvalidArgument,
                 "jax_rnnt: activation must be a name that has a kernel, blank in [0, V).");
  }
  const auto launch = [&](auto tag) {
    using Element = typename decltype(tag)::Type;
    return Backend::JointForward(
        stream, shape, *activation, static_cast<int32_t>(blank), Data<const Element>(encoder),
        Data<const Element>(predictor), Data<const Element>(kernel), Data<const Element>(bias),
        labels.typed_data(), counts.typed_data(), packed_kernel->untyped_data(),
        Data<float>(*packed_bias), Data<float>(*blank_log_probs), Data<float>(*label_log_probs),
        Data<float>(*maxima), Data<float>(*log_sums));
  };
  switch (dtype) {
    case DataType::BF16:
      return launch(TypeTag<typename Backend::BFloat16>());
    case DataType::F16:
      return launch(TypeTag<typename Backend::Float16>());
    default:
      return WrongBuffer("encoder", "bfloat16 or float16");
  }
}

template <typename Context>
auto BindJointForward() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // encoder (N, T, H)
      .template Arg<AnyBuffer>()    // predictor (N, U, H)
      .template Arg<AnyBuffer>()    // kernel (H, V)
      .template Arg<AnyBuffer>()    // bias (V)
      .template Arg<Int32Buffer>()  // labels (N, U)
      .template Arg<Int32Buffer>()  // counts (N)
      .template Ret<AnyBuffer>()    // blank_log_probs (N, T, U)
      .template Ret<AnyBuffer>()    // label_log_probs (N, T, U)
      .template Ret<AnyBuffer>()    // maxima (N, T, U)
      .template Ret<AnyBuffer>()    // log_sums (N, T, U)
      .template Ret<AnyBuffer>()    // scratch: packed_kernel
      .template Ret<AnyBuffer>()    // scratch: packed_bias
      .template Attr<std::string_view>("activation")
      .template Attr<int64_t>("blank");
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_JOINT_H_
