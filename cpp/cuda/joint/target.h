// Which of the joint network's kernels over tiles a GPU runs.
#ifndef JAX_RNNT_CUDA_JOINT_TARGET_H_
#define JAX_RNNT_CUDA_JOINT_TARGET_H_

namespace jax_rnnt::cuda {

// How the kernels multiply: without products there are none.
//   kWgmma   by warpgroups from shared memory, for compute capability 9.0 alone
//   kMma     by warps from registers, from 8.0 on
enum class JointProducts { kNone, kWgmma, kMma };

struct JointTarget {
  JointProducts products = JointProducts::kNone;
  int shared_bytes = 0;  // that a block may have
};

// The target of a compute capability, 10 major + minor. A GPU runs the kernels of every lower
// capability whose blocks have no more shared memory than its own, but for those of 9.0.
constexpr JointTarget TargetOf(int capability) {
  constexpr int kKilobyte = 1024;
  if (capability < 80) return {};
  if (capability == 90) return {JointProducts::kWgmma, 227 * kKilobyte};
  const int major = capability / 10;
  if (major == 10 || major == 11) return {JointProducts::kMma, 227 * kKilobyte};
  if (capability == 80 || capability == 87) return {JointProducts::kMma, 163 * kKilobyte};
  // 8.6, 8.9 and 12.x, and whatever is not known yet.
  return {JointProducts::kMma, 99 * kKilobyte};
}

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_JOINT_TARGET_H_
