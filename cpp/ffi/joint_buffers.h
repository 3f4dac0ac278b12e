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

#include "core/entries.h"
#include "cuda/joint/inputs.h"
#include "cuda/joint/pack.h"
#include "cuda/joint/shape.h"
#include "cuda/joint/target.h"
#include "ffi/buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

inline std::optional<cuda::Activation> ActivationByName(std::string_view name) {
  if (name == "none") return cuda::Activation::kNone;
  if (name == "tanh") return cuda::Activation::kTanh;
  if (name == "relu") return cuda::Activation::kRelu;
  if (name == "silu") return cuda::Activation::kSilu;
  if (name == "gelu") return cuda::Activation::kGelu;
  if (name == "sigmoid") return cuda::Activation::kSigmoid;
  return std::nullopt;
}

// An error unless the name is of an activation, and dropout a threshold among 65536 numbers.
inline Error CheckOptions(std::string_view activation, int64_t dropout) {
  if (ActivationByName(activation) && dropout >= 0 && dropout < 65536) return Error::Success();
  return Error(ErrorCode::kInvalidArgument,
               "jax_rnnt: activation must be a name that has a kernel, dropout in [0, 65536).");
}

// Whose kernels a call takes; none for a capability that has none.
inline cuda::JointTarget TargetOf(int64_t capability) {
  const bool is_number = capability > 0 && capability < 10000;
  return is_number ? cuda::TargetOf(static_cast<int>(capability)) : cuda::JointTarget{};
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

// The entries of one part, from those of all.
inline EntriesResults<float> PartOf(EntriesResults<float> all, const EntriesOptions& options,
                                    int64_t part, const JointParts& parts) {
  const int64_t first = parts.Cells() * part;
  for (float** array : {&all.maxima, &all.log_sums, &all.blank_logits, &all.label_logits}) {
    *array += first;
  }
  for (int32_t i = 0; i < options.pick_count; ++i) all.pick_logits[i] += first;
  return all;
}
inline EntriesCotangents<float> PartOf(EntriesCotangents<float> all, const EntriesOptions& options,
                                       int64_t part, const JointParts& parts) {
  const int64_t first = parts.Cells() * part;
  for (const float** array : {&all.sums, &all.blanks, &all.labels}) *array += first;
  for (int32_t i = 0; i < options.pick_count; ++i) all.picks[i] += first;
  return all;
}

// The operands of cuda::JointInputs. P stands for all leading dimensions.
struct JointOperands {
  AnyBuffer encoder;      // (P, E, T, H)
  AnyBuffer predictor;    // (P, N, U, H), N = K E
  Int32Buffer labels;     // (P, N, U)
  Int32Buffer counts;     // (P, N)
  Int32Buffer sequences;  // (P, N)
  Int32Buffer seed;       // (P, 2), the bits of two uint32

  // Makes the parts of a joint network of V symbols, and checks both V and the operands.
  Error MakeParts(int64_t V, JointParts* parts) const {
    const auto dimensions = encoder.dimensions();
    if (dimensions.size() < 3 || predictor.dimensions().size() != dimensions.size()) {
      return WrongBuffer("encoder", "(..., E, T, H), with a predictor (..., N, U, H)");
    }
    const auto own = dimensions.last(3);
    const auto others = predictor.dimensions().last(3);
    const int64_t E = own[0], T = own[1], H = own[2], N = others[0], U = others[1];
    if (V < 1) return Error(ErrorCode::kInvalidArgument, "jax_rnnt: there must be symbols.");
    if (std::max({N, T, U, H, V}) > std::numeric_limits<int32_t>::max()) {
      return WrongBuffer("encoder", "of dimensions below 2^31");
    }
    const int64_t K = N == 0 && E == 0 ? 1 : E == 0 ? 0 : N / E;
    if (K * E != N || K < 1) {
      return WrongBuffer("predictor", "(..., N, U, H), N a multiple of the encoder's");
    }
    const int64_t P = Leading(dimensions, 3);
    JAX_RNNT_RETURN_IF_ERROR(
        Check("predictor", predictor, encoder.element_type(), Times({P, N, U, H})));
    JAX_RNNT_RETURN_IF_ERROR(Check("labels", labels, DataType::S32, Times({P, N, U})));
    JAX_RNNT_RETURN_IF_ERROR(Check("counts", counts, DataType::S32, Times({P, N})));
    JAX_RNNT_RETURN_IF_ERROR(Check("sequences", sequences, DataType::S32, Times({P, N})));
    JAX_RNNT_RETURN_IF_ERROR(Check("seed", seed, DataType::S32, Times({P, 2})));
    *parts = {P,
              {static_cast<int32_t>(N), static_cast<int32_t>(T), static_cast<int32_t>(U),
               static_cast<int32_t>(H), static_cast<int32_t>(V), static_cast<int32_t>(K)}};
    return Error::Success();
  }

  template <typename T>
  cuda::JointInputs<T> Part(int64_t part, const JointParts& parts, int64_t dropout) const {
    return {PartOf<const T>(encoder, part, parts),
            PartOf<const T>(predictor, part, parts),
            PartOf<const int32_t>(labels, part, parts),
            PartOf<const int32_t>(counts, part, parts),
            {static_cast<uint32_t>(dropout), PartOf<const int32_t>(sequences, part, parts),
             PartOf<const uint32_t>(seed, part, parts)}};
  }
};

// The length R of each part's list of tiles (P, R), or an error.
inline Error TilesOfPart(const Int32Buffer& tiles, const JointParts& parts, int64_t* R) {
  const int64_t count = tiles.element_count();
  *R = parts.count == 0 ? 0 : count / parts.count;
  return *R * parts.count == count ? Error::Success()
                                   : WrongBuffer("tiles", "as many in each part");
}

// An error unless the two buffers have the size of the kernel and bias, of W columns, that
// joint_pack packs.
template <typename Buffer>
Error CheckPacked(const cuda::JointTarget& target, const JointParts& parts, int64_t W,
                  Buffer& packed_kernel, Buffer& packed_bias) {
  const cuda::JointPackedBytes bytes =
      W > std::numeric_limits<int32_t>::max()
          ? cuda::JointPackedBytes{0, 0}
          : cuda::PackedJointBytes(target, parts.shape.H, static_cast<int32_t>(W));
  if (bytes.kernel == 0)
    return WrongBuffer("kernel", "of an H and a W that the kernels of this capability take");
  JAX_RNNT_RETURN_IF_ERROR(
      Check("packed_kernel", packed_kernel, DataType::U32, Times({parts.count, bytes.kernel / 4})));
  return Check("packed_bias", packed_bias, DataType::U32, Times({parts.count, bytes.bias / 4}));
}

// The kernel and bias that joint_forward and joint_gradients take besides.
struct JointKernel {
  cuda::JointTarget target;
  AnyBuffer kernel;  // (P, H, W), for its shape
  AnyBuffer packed_kernel;
  AnyBuffer packed_bias;

  // Checks them, and finds the number of columns.
  Error FindWidth(const JointParts& parts, DataType dtype, int64_t* W) const {
    if (kernel.dimensions().size() < 2) return WrongBuffer("kernel", "(..., H, W)");
    const auto own = kernel.dimensions().last(2);
    if (own[0] != parts.shape.H) return WrongBuffer("kernel", "(..., H, W)");
    *W = own[1];
    JAX_RNNT_RETURN_IF_ERROR(Check("kernel", kernel, dtype, Times({parts.count, own[0], own[1]})));
    return CheckPacked(target, parts, *W, packed_kernel, packed_bias);
  }

  cuda::JointPacked Part(int64_t part, const JointParts& parts) const {
    return {PartOf<const uint32_t>(packed_kernel, part, parts),
            PartOf<const float>(packed_bias, part, parts)};
  }
};

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_JOINT_BUFFERS_H_
