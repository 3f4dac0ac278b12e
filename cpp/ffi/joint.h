// The custom calls of the joint network, which CUDA alone has: joint_pack, joint_forward,
// joint_gradients and joint_hidden.
//
// A batch may come in parts, P of them (all leading dimensions together, one if there are none).
// Each part has its own N sequences, kernel, bias and list of tiles, and a call of the backend.
//
// A Backend has JointPack, JointForward, JointGradients and JointHidden.
#ifndef JAX_RNNT_FFI_JOINT_H_
#define JAX_RNNT_FFI_JOINT_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>

#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/shape.h"
#include "ffi/buffers.h"
#include "ffi/joint_buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// The buffers of JointBuffers; P stands for all leading dimensions.
template <typename Context>
auto BindJoint() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()     // encoder (P, N, T, H)
      .template Arg<AnyBuffer>()     // predictor (P, N, U, H)
      .template Arg<AnyBuffer>()     // kernel (P, H, V), for its shape
      .template Arg<AnyBuffer>()     // packed_kernel
      .template Arg<AnyBuffer>()     // packed_bias
      .template Arg<Int32Buffer>()   // labels (P, N, U)
      .template Arg<Int32Buffer>();  // counts (P, N)
}

template <typename Backend>
Error JointPack(typename Backend::Context context, AnyBuffer kernel, AnyBuffer bias,
                AnyResult packed_kernel, AnyResult packed_bias) {
  if (kernel.dimensions().size() < 2) return WrongBuffer("kernel", "(..., H, V)");
  const auto own = kernel.dimensions().last(2);
  const int64_t H = own[0], V = own[1];
  if (std::max(H, V) > std::numeric_limits<int32_t>::max()) {
    return WrongBuffer("kernel", "of dimensions below 2^31");
  }
  const JointParts parts{Leading(kernel.dimensions(), 2),
                         {1, 1, 1, static_cast<int32_t>(H), static_cast<int32_t>(V)}};
  JAX_RNNT_RETURN_IF_ERROR(Check("bias", bias, kernel.element_type(), Times({parts.count, V})));
  JAX_RNNT_RETURN_IF_ERROR(CheckPacked(parts, *packed_kernel, *packed_bias));
  return DispatchHalves<Backend>(kernel.element_type(), [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return ForEachPart(parts, [&](int64_t part) {
      return Backend::JointPack(
          context, parts.shape.H, parts.shape.V, PartOf<const T>(kernel, part, parts),
          PartOf<const T>(bias, part, parts), PartOf<uint32_t>(*packed_kernel, part, parts),
          PartOf<float>(*packed_bias, part, parts));
    });
  });
}

template <typename Context>
auto BindJointPack() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()   // kernel (P, H, V)
      .template Arg<AnyBuffer>()   // bias (P, V)
      .template Ret<AnyBuffer>()   // packed_kernel
      .template Ret<AnyBuffer>();  // packed_bias
}

template <typename Backend>
Error JointForward(typename Backend::Context context, AnyBuffer encoder, AnyBuffer predictor,
                   AnyBuffer kernel, AnyBuffer packed_kernel, AnyBuffer packed_bias,
                   Int32Buffer labels, Int32Buffer counts, AnyResult blank_log_probs,
                   AnyResult label_log_probs, AnyResult maxima, AnyResult log_sums,
                   std::string_view activation, int64_t blank) {
  JointParts parts;
  JAX_RNNT_RETURN_IF_ERROR(
      (JointBuffers{encoder, predictor, kernel, packed_kernel, packed_bias, labels, counts}
           .MakeParts(&parts)));
  const cuda::JointShape& shape = parts.shape;
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, blank, shape.V));
  const int64_t cells = Times({parts.count, parts.Cells()});
  JAX_RNNT_RETURN_IF_ERROR(Check("blank_log_probs", *blank_log_probs, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", *label_log_probs, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("maxima", *maxima, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", *log_sums, DataType::F32, cells));
  if (cells == 0) return Error::Success();
  return DispatchHalves<Backend>(encoder.element_type(), [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return ForEachPart(parts, [&](int64_t part) {
      return Backend::JointForward(
          context, shape, *ActivationByName(activation), static_cast<int32_t>(blank),
          PartOf<const T>(encoder, part, parts), PartOf<const T>(predictor, part, parts),
          PartOf<const uint32_t>(packed_kernel, part, parts),
          PartOf<const float>(packed_bias, part, parts), PartOf<const int32_t>(labels, part, parts),
          PartOf<const int32_t>(counts, part, parts), PartOf<float>(*blank_log_probs, part, parts),
          PartOf<float>(*label_log_probs, part, parts), PartOf<float>(*maxima, part, parts),
          PartOf<float>(*log_sums, part, parts));
    });
  });
}

template <typename Context>
auto BindJointForward() {
  return BindJoint<Context>()
      .template Ret<AnyBuffer>()  // blank_log_probs (P, N, T, U)
      .template Ret<AnyBuffer>()  // label_log_probs (P, N, T, U)
      .template Ret<AnyBuffer>()  // maxima (P, N, T, U)
      .template Ret<AnyBuffer>()  // log_sums (P, N, T, U)
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
  JointParts parts;
  JAX_RNNT_RETURN_IF_ERROR(
      (JointBuffers{encoder, predictor, kernel, packed_kernel, packed_bias, labels, counts}
           .MakeParts(&parts)));
  const cuda::JointShape& shape = parts.shape;
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, blank, shape.V));
  const int64_t cells = Times({parts.count, parts.Cells()});
  JAX_RNNT_RETURN_IF_ERROR(Check("maxima", maxima, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", log_sums, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("blank_cotangents", blank_cotangents, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("label_cotangents", label_cotangents, DataType::F32, cells));
  const DataType dtype = encoder.element_type();
  int64_t R;
  JAX_RNNT_RETURN_IF_ERROR(TilesOfPart(tiles, parts, &R));
  const int64_t P = parts.count;
  JAX_RNNT_RETURN_IF_ERROR(
      Check("activations", *activations, dtype, Times({P, R, cuda::kListedCells, shape.H})));
  JAX_RNNT_RETURN_IF_ERROR(
      Check("gradients", *gradients, dtype, Times({P, R, cuda::kListedCells, shape.V})));
  JAX_RNNT_RETURN_IF_ERROR(
      Check("bias_parts", *bias_parts, DataType::F32, Times({P, R, cuda::kBiasParts, shape.V})));
  return DispatchHalves<Backend>(dtype, [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return ForEachPart(parts, [&](int64_t part) {
      return Backend::JointGradients(
          context, shape, *ActivationByName(activation), static_cast<int32_t>(blank), R,
          PartOf<const T>(encoder, part, parts), PartOf<const T>(predictor, part, parts),
          PartOf<const uint32_t>(packed_kernel, part, parts),
          PartOf<const float>(packed_bias, part, parts), PartOf<const int32_t>(labels, part, parts),
          PartOf<const int32_t>(counts, part, parts), PartOf<const float>(maxima, part, parts),
          PartOf<const float>(log_sums, part, parts),
          PartOf<const float>(blank_cotangents, part, parts),
          PartOf<const float>(label_cotangents, part, parts),
          PartOf<const int32_t>(tiles, part, parts), PartOf<T>(*gradients, part, parts),
          PartOf<T>(*activations, part, parts), PartOf<float>(*bias_parts, part, parts));
    });
  });
}

template <typename Context>
auto BindJointGradients() {
  return BindJoint<Context>()
      .template Arg<Int32Buffer>()  // tiles (P, R)
      .template Arg<AnyBuffer>()    // maxima (P, N, T, U)
      .template Arg<AnyBuffer>()    // log_sums (P, N, T, U)
      .template Arg<AnyBuffer>()    // blank_cotangents (P, N, T, U)
      .template Arg<AnyBuffer>()    // label_cotangents (P, N, T, U)
      .template Ret<AnyBuffer>()    // activations (P, R, 16, 8, H)
      .template Ret<AnyBuffer>()    // gradients (P, R, 16, 8, V)
      .template Ret<AnyBuffer>()    // bias_parts (P, R, 8, V)
      .template Attr<std::string_view>("activation")
      .template Attr<int64_t>("blank");
}

template <typename Backend>
Error JointHidden(typename Backend::Context context, AnyBuffer hidden_gradients, AnyBuffer encoder,
                  AnyBuffer predictor, Int32Buffer labels, Int32Buffer counts, Int32Buffer tiles,
                  AnyResult encoder_parts, AnyResult predictor_parts, std::string_view activation,
                  int64_t symbols) {
  JointParts parts;
  JAX_RNNT_RETURN_IF_ERROR(MakeParts(encoder, predictor, symbols, labels, counts, &parts));
  const cuda::JointShape& shape = parts.shape;
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, 0, symbols));
  int64_t R;
  JAX_RNNT_RETURN_IF_ERROR(TilesOfPart(tiles, parts, &R));
  const int64_t P = parts.count;
  const DataType dtype = encoder.element_type();
  JAX_RNNT_RETURN_IF_ERROR(Check("hidden_gradients", hidden_gradients, dtype,
                                 Times({P, R, cuda::kListedCells, shape.H})));
  JAX_RNNT_RETURN_IF_ERROR(Check("encoder_parts", *encoder_parts, DataType::F32,
                                 Times({P, R, cuda::kListedFrames, shape.H})));
  JAX_RNNT_RETURN_IF_ERROR(Check("predictor_parts", *predictor_parts, DataType::F32,
                                 Times({P, R, cuda::kListedColumns, shape.H})));
  return DispatchHalves<Backend>(dtype, [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return ForEachPart(parts, [&](int64_t part) {
      return Backend::JointHidden(
          context, shape, *ActivationByName(activation), R, PartOf<const T>(encoder, part, parts),
          PartOf<const T>(predictor, part, parts), PartOf<const int32_t>(labels, part, parts),
          PartOf<const int32_t>(counts, part, parts), PartOf<const int32_t>(tiles, part, parts),
          PartOf<const T>(hidden_gradients, part, parts),
          PartOf<float>(*encoder_parts, part, parts), PartOf<float>(*predictor_parts, part, parts));
    });
  });
}

template <typename Context>
auto BindJointHidden() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // hidden_gradients (P, R, 16, 8, H)
      .template Arg<AnyBuffer>()    // encoder (P, N, T, H)
      .template Arg<AnyBuffer>()    // predictor (P, N, U, H)
      .template Arg<Int32Buffer>()  // labels (P, N, U)
      .template Arg<Int32Buffer>()  // counts (P, N)
      .template Arg<Int32Buffer>()  // tiles (P, R)
      .template Ret<AnyBuffer>()    // encoder_parts (P, R, 16, H)
      .template Ret<AnyBuffer>()    // predictor_parts (P, R, 8, H)
      .template Attr<std::string_view>("activation")
      .template Attr<int64_t>("symbols");
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_JOINT_H_
