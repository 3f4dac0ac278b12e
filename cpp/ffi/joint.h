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
#include <utility>

#include "core/entries.h"
#include "cuda/joint/gradients.h"
#include "cuda/joint/list.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/shape.h"
#include "cuda/joint/target.h"
#include "ffi/buffers.h"
#include "ffi/entries.h"
#include "ffi/joint_buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// The buffers of JointOperands and JointKernel; P stands for all leading dimensions, and N = K E.
template <typename Context>
auto BindJoint() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()     // encoder (P, E, T, H)
      .template Arg<AnyBuffer>()     // predictor (P, N, U, H)
      .template Arg<AnyBuffer>()     // kernel (P, H, W), for its shape
      .template Arg<AnyBuffer>()     // packed_kernel
      .template Arg<AnyBuffer>()     // packed_bias
      .template Arg<Int32Buffer>()   // labels (P, N, U)
      .template Arg<Int32Buffer>()   // counts (P, N)
      .template Arg<Int32Buffer>()   // sequences (P, N)
      .template Arg<Int32Buffer>();  // seed (P, 2)
}

// `binding` is that of the buffers.
template <typename Binding>
auto BindJointOptions(Binding binding) {
  return BindEntriesOptions(std::move(binding)
                                .template Attr<int64_t>("capability")
                                .template Attr<std::string_view>("activation")
                                .template Attr<int64_t>("dropout"));
}

template <typename Backend>
Error JointPack(typename Backend::Context context, AnyBuffer kernel, AnyBuffer bias,
                AnyResult packed_kernel, AnyResult packed_bias, int64_t capability) {
  if (kernel.dimensions().size() < 2) return WrongBuffer("kernel", "(..., H, W)");
  const auto own = kernel.dimensions().last(2);
  const int64_t H = own[0], W = own[1];
  if (std::max(H, W) > std::numeric_limits<int32_t>::max()) {
    return WrongBuffer("kernel", "of dimensions below 2^31");
  }
  const JointParts parts{Leading(kernel.dimensions(), 2),
                         {1, 1, 1, static_cast<int32_t>(H), static_cast<int32_t>(W)}};
  JAX_RNNT_RETURN_IF_ERROR(Check("bias", bias, kernel.element_type(), Times({parts.count, W})));
  const cuda::JointTarget target = TargetOf(capability);
  JAX_RNNT_RETURN_IF_ERROR(CheckPacked(target, parts, W, *packed_kernel, *packed_bias));
  return DispatchHalves<Backend>(kernel.element_type(), [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return ForEachPart(parts, [&](int64_t part) {
      return Backend::JointPack(
          context, target, parts.shape.H, parts.shape.V, PartOf<const T>(kernel, part, parts),
          PartOf<const T>(bias, part, parts), PartOf<uint32_t>(*packed_kernel, part, parts),
          PartOf<float>(*packed_bias, part, parts));
    });
  });
}

template <typename Context>
auto BindJointPack() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()  // kernel (P, H, W)
      .template Arg<AnyBuffer>()  // bias (P, W)
      .template Ret<AnyBuffer>()  // packed_kernel
      .template Ret<AnyBuffer>()  // packed_bias
      .template Attr<int64_t>("capability");
}

template <typename Backend>
Error JointForward(typename Backend::Context context, AnyBuffer encoder, AnyBuffer predictor,
                   AnyBuffer kernel, AnyBuffer packed_kernel, AnyBuffer packed_bias,
                   Int32Buffer labels, Int32Buffer counts, Int32Buffer sequences, Int32Buffer seed,
                   AnyResult maxima, AnyResult log_sums, AnyResult blank_logits,
                   AnyResult label_logits, xla::ffi::RemainingRets pick_logits, int64_t capability,
                   std::string_view activation, int64_t dropout, int64_t blank, int64_t tokens,
                   int64_t without_blank, int64_t without_label, Columns picks) {
  const JointOperands operands{encoder, predictor, labels, counts, sequences, seed};
  const JointKernel packed{TargetOf(capability), kernel, packed_kernel, packed_bias};
  const DataType dtype = encoder.element_type();
  JointParts parts;
  int64_t W;
  EntriesOptions options;
  EntriesResults<float> results;
  JAX_RNNT_RETURN_IF_ERROR(operands.MakeParts(tokens, &parts));
  JAX_RNNT_RETURN_IF_ERROR(packed.FindWidth(parts, dtype, &W));
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, dropout));
  JAX_RNNT_RETURN_IF_ERROR(
      MakeEntriesOptions(1, W, blank, tokens, without_blank, without_label, picks, &options));
  const int64_t cells = Times({parts.count, parts.Cells()});
  JAX_RNNT_RETURN_IF_ERROR(MakeEntriesResults(cells, picks, maxima, log_sums, blank_logits,
                                              label_logits, pick_logits, &results));
  if (cells == 0) return Error::Success();
  return DispatchHalves<Backend>(dtype, [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return ForEachPart(parts, [&](int64_t part) {
      return Backend::JointForward(context, packed.target, parts.shape,
                                   *ActivationByName(activation), options,
                                   operands.Part<T>(part, parts, dropout), packed.Part(part, parts),
                                   PartOf(results, options, part, parts));
    });
  });
}

template <typename Context>
auto BindJointForward() {
  return BindJointOptions(BindJoint<Context>()
                              .template Ret<AnyBuffer>()  // maxima (P, N, T, U)
                              .template Ret<AnyBuffer>()  // log_sums (P, N, T, U)
                              .template Ret<AnyBuffer>()  // blank_logits (P, N, T, U)
                              .template Ret<AnyBuffer>()  // label_logits (P, N, T, U)
                              .RemainingRets());          // pick_logits, one (P, N, T, U) a pick
}

template <typename Backend>
Error JointGradients(typename Backend::Context context, AnyBuffer encoder, AnyBuffer predictor,
                     AnyBuffer kernel, AnyBuffer packed_kernel, AnyBuffer packed_bias,
                     Int32Buffer labels, Int32Buffer counts, Int32Buffer sequences,
                     Int32Buffer seed, Int32Buffer tiles, AnyBuffer bounds, AnyBuffer maxima,
                     AnyBuffer log_sums, AnyBuffer sum_cotangents, AnyBuffer blank_cotangents,
                     AnyBuffer label_cotangents, xla::ffi::RemainingArgs pick_cotangents,
                     AnyResult activations, AnyResult gradients, AnyResult bias_parts,
                     int64_t capability, std::string_view activation, int64_t dropout,
                     int64_t blank, int64_t tokens, int64_t without_blank, int64_t without_label,
                     Columns picks) {
  const JointOperands operands{encoder, predictor, labels, counts, sequences, seed};
  const JointKernel packed{TargetOf(capability), kernel, packed_kernel, packed_bias};
  const DataType dtype = encoder.element_type();
  JointParts parts;
  int64_t W, R;
  EntriesOptions options;
  EntriesCotangents<float> cotangents;
  JAX_RNNT_RETURN_IF_ERROR(operands.MakeParts(tokens, &parts));
  JAX_RNNT_RETURN_IF_ERROR(packed.FindWidth(parts, dtype, &W));
  JAX_RNNT_RETURN_IF_ERROR(TilesOfPart(tiles, parts, &R));
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, dropout));
  JAX_RNNT_RETURN_IF_ERROR(
      MakeEntriesOptions(1, W, blank, tokens, without_blank, without_label, picks, &options));
  const cuda::JointShape& shape = parts.shape;
  const int64_t P = parts.count;
  const int64_t cells = Times({P, parts.Cells()});
  JAX_RNNT_RETURN_IF_ERROR(Check("bounds", bounds, DataType::F32, Times({P, shape.N})));
  JAX_RNNT_RETURN_IF_ERROR(Check("maxima", maxima, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(Check("log_sums", log_sums, DataType::F32, cells));
  JAX_RNNT_RETURN_IF_ERROR(MakeEntriesCotangents(cells, picks, sum_cotangents, blank_cotangents,
                                                 label_cotangents, pick_cotangents, &cotangents));
  JAX_RNNT_RETURN_IF_ERROR(
      Check("activations", *activations, dtype, Times({P, R, cuda::kListedCells, shape.H})));
  JAX_RNNT_RETURN_IF_ERROR(
      Check("gradients", *gradients, dtype, Times({P, R, cuda::kListedCells, W})));
  JAX_RNNT_RETURN_IF_ERROR(Check("bias_parts", *bias_parts, DataType::F32,
                                 Times({P, R, cuda::BiasParts(packed.target.products), W})));
  return DispatchHalves<Backend>(dtype, [&](auto tag) -> Error {
    using T = typename decltype(tag)::Type;
    return ForEachPart(parts, [&](int64_t part) {
      return Backend::JointGradients(
          context, packed.target, shape, *ActivationByName(activation), options, R,
          operands.Part<T>(part, parts, dropout), packed.Part(part, parts),
          PartOf<const int32_t>(tiles, part, parts), PartOf<const float>(bounds, part, parts),
          PartOf<const float>(maxima, part, parts), PartOf<const float>(log_sums, part, parts),
          PartOf(cotangents, options, part, parts), PartOf<T>(*gradients, part, parts),
          PartOf<T>(*activations, part, parts), PartOf<float>(*bias_parts, part, parts));
    });
  });
}

template <typename Context>
auto BindJointGradients() {
  return BindJointOptions(BindJoint<Context>()
                              .template Arg<Int32Buffer>()  // tiles (P, R)
                              .template Arg<AnyBuffer>()    // bounds (P, N)
                              .template Arg<AnyBuffer>()    // maxima (P, N, T, U)
                              .template Arg<AnyBuffer>()    // log_sums (P, N, T, U)
                              .template Arg<AnyBuffer>()    // sum_cotangents (P, N, T, U)
                              .template Arg<AnyBuffer>()    // blank_cotangents (P, N, T, U)
                              .template Arg<AnyBuffer>()    // label_cotangents (P, N, T, U)
                              .RemainingArgs()  // pick_cotangents, one (P, N, T, U) a pick
                              .template Ret<AnyBuffer>()    // activations (P, R, 16, 8, H)
                              .template Ret<AnyBuffer>()    // gradients (P, R, 16, 8, W)
                              .template Ret<AnyBuffer>());  // bias_parts (P, R, BiasParts, W)
}

template <typename Backend>
Error JointHidden(typename Backend::Context context, AnyBuffer hidden_gradients, AnyBuffer encoder,
                  AnyBuffer predictor, Int32Buffer labels, Int32Buffer counts, Int32Buffer tiles,
                  Int32Buffer sequences, Int32Buffer seed, AnyResult encoder_parts,
                  AnyResult predictor_parts, std::string_view activation, int64_t symbols,
                  int64_t dropout) {
  const JointOperands operands{encoder, predictor, labels, counts, sequences, seed};
  JointParts parts;
  int64_t R;
  JAX_RNNT_RETURN_IF_ERROR(operands.MakeParts(symbols, &parts));
  JAX_RNNT_RETURN_IF_ERROR(TilesOfPart(tiles, parts, &R));
  JAX_RNNT_RETURN_IF_ERROR(CheckOptions(activation, dropout));
  const cuda::JointShape& shape = parts.shape;
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
          context, shape, *ActivationByName(activation), R, operands.Part<T>(part, parts, dropout),
          PartOf<const int32_t>(tiles, part, parts), PartOf<const T>(hidden_gradients, part, parts),
          PartOf<float>(*encoder_parts, part, parts), PartOf<float>(*predictor_parts, part, parts));
    });
  });
}

template <typename Context>
auto BindJointHidden() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // hidden_gradients (P, R, 16, 8, H)
      .template Arg<AnyBuffer>()    // encoder (P, E, T, H)
      .template Arg<AnyBuffer>()    // predictor (P, N, U, H)
      .template Arg<Int32Buffer>()  // labels (P, N, U)
      .template Arg<Int32Buffer>()  // counts (P, N)
      .template Arg<Int32Buffer>()  // tiles (P, R)
      .template Arg<Int32Buffer>()  // sequences (P, N)
      .template Arg<Int32Buffer>()  // seed (P, 2)
      .template Ret<AnyBuffer>()    // encoder_parts (P, R, 16, H)
      .template Ret<AnyBuffer>()    // predictor_parts (P, R, 8, H)
      .template Attr<std::string_view>("activation")
      .template Attr<int64_t>("symbols")
      .template Attr<int64_t>("dropout");
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_JOINT_H_
