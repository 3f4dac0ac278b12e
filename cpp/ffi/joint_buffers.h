// What the custom calls of the joint network check: their options, their 16-bit types, and the
// parts of a batch.
//
// A batch may come in parts, P of them (all leading dimensions together, one if there are none).
// Each part has its own N sequences, kernel, bias and list of tiles, and a call of the backend.
#ifndef JAX_RNNT_FFI_JOINT_BUFFERS_H_
#define JAX_RNNT_FFI_JOINT_BUFFERS_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

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

// How many parts a batch has, and the shape of each.
struct JointParts {
  int64_t count;
  cuda::JointShape shape;

  int64_t Cells() const { return Times({shape.N, shape.T, shape.U}); }
};

// The elements of one part in a buffer whose size has been checked.
template <typename T, typename Buffer>
T* PartOf(Buffer& buffer, int64_t part, const JointParts& parts) {
  return Data<T>(buffer) + static_cast<int64_t>(buffer.element_count()) / parts.count * part;
}

// Calls call(part) for each part, until one returns an error.
template <typename Call>
Error ForEachPart(const JointParts& parts, const Call& call) {
  for (int64_t part = 0; part < parts.count; ++part) JAX_RNNT_RETURN_IF_ERROR(call(part));
  return Error::Success();
}

// Makes the parts of a joint network from encoder (P, N, T, H), predictor (P, N, U, H) and the
// number of symbols V, and checks its labels (P, N, U) and counts (P, N).
inline Error MakeParts(const AnyBuffer& encoder, const AnyBuffer& predictor, int64_t V,
                       const Int32Buffer& labels, const Int32Buffer& counts, JointParts* parts) {
  const auto dimensions = encoder.dimensions();
  if (dimensions.size() < 3 || predictor.dimensions().size() != dimensions.size()) {
    return WrongBuffer("encoder", "(..., N, T, H), with a predictor (..., N, U, H)");
  }
  const auto own = dimensions.last(3);
  const int64_t N = own[0], T = own[1], H = own[2], U = predictor.dimensions().last(2)[0];
  if (std::max({N, T, U, H, V}) > std::numeric_limits<int32_t>::max()) {
    return WrongBuffer("encoder", "of dimensions below 2^31");
  }
  const int64_t P = Leading(dimensions, 3);
  JAX_RNNT_RETURN_IF_ERROR(
      Check("predictor", predictor, encoder.element_type(), Times({P, N, U, H})));
  JAX_RNNT_RETURN_IF_ERROR(Check("labels", labels, DataType::S32, Times({P, N, U})));
  JAX_RNNT_RETURN_IF_ERROR(Check("counts", counts, DataType::S32, Times({P, N})));
  *parts = {P,
            {static_cast<int32_t>(N), static_cast<int32_t>(T), static_cast<int32_t>(U),
             static_cast<int32_t>(H), static_cast<int32_t>(V)}};
  return Error::Success();
}

// The length R of each part's list of tiles (P, R), or an error.
inline Error TilesOfPart(const Int32Buffer& tiles, const JointParts& parts, int64_t* R) {
  const int64_t count = tiles.element_count();
  *R = parts.count == 0 ? 0 : count / parts.count;
  return *R * parts.count == count ? Error::Success()
                                   : WrongBuffer("tiles", "as many in each part");
}

// An error unless the two buffers have the size of the kernel and bias that joint_pack packs.
template <typename Buffer>
Error CheckPacked(const JointParts& parts, Buffer& packed_kernel, Buffer& packed_bias) {
  const cuda::JointPackedBytes bytes = cuda::PackedJointBytes(parts.shape.H, parts.shape.V);
  if (bytes.kernel == 0) return WrongBuffer("kernel", "of an H that the kernels take");
  JAX_RNNT_RETURN_IF_ERROR(
      Check("packed_kernel", packed_kernel, DataType::U32, Times({parts.count, bytes.kernel / 4})));
  return Check("packed_bias", packed_bias, DataType::U32, Times({parts.count, bytes.bias / 4}));
}

// The operands that joint_forward and joint_gradients begin with. MakeParts checks them.
struct JointBuffers {
  AnyBuffer encoder;
  AnyBuffer predictor;
  AnyBuffer kernel;
  AnyBuffer packed_kernel;
  AnyBuffer packed_bias;
  Int32Buffer labels;
  Int32Buffer counts;

  Error MakeParts(JointParts* parts) const {
    if (kernel.dimensions().size() < 2) return WrongBuffer("kernel", "(..., H, V)");
    const auto own = kernel.dimensions().last(2);
    JAX_RNNT_RETURN_IF_ERROR(ffi::MakeParts(encoder, predictor, own[1], labels, counts, parts));
    if (own[0] != parts->shape.H) return WrongBuffer("kernel", "(..., H, V)");
    JAX_RNNT_RETURN_IF_ERROR(
        Check("kernel", kernel, encoder.element_type(), Times({parts->count, own[0], own[1]})));
    return CheckPacked(*parts, packed_kernel, packed_bias);
  }
};

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_JOINT_BUFFERS_H_
