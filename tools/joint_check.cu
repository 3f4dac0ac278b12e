// Checks the fused joint network, forward and backward, against the same sums in double precision,
// and times it. Exits with 1 unless every output of every problem is within its bound.
//
//   tools/check_gpu.sh joint_kernels
//     [all | check | small | time] [all | forward | gradients | hidden] [CAPABILITY]
//
// The kernels are those of the GPU's own compute capability, then those of 8.0 and 8.6 if it runs
// them: with mma.sync, in 163 and in 99 KB of shared memory. CAPABILITY, 80 for 8.0, leaves one.
//
// The reference rounds the same activations to the half type: where the two disagreed in one, its
// rounding would hide every other error. The activations are compared with their definitions apart.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "joint_check/activations.cuh"
#include "joint_check/cells.cuh"
#include "joint_check/forward.cuh"
#include "joint_check/gradients.cuh"
#include "joint_check/hidden.cuh"
#include "joint_check/problems.cuh"
#include "joint_check/times.cuh"

namespace jax_rnnt::joint_check {
namespace {

void RunChecks(const char* only) {
  // A sanitizer takes minutes for all of them.
  const auto wants = [&](const char* part) {
    return only == nullptr || std::strcmp(only, part) == 0;
  };
  if (wants("forward")) {
    CheckProblems<__nv_bfloat16>();
    CheckProblems<__half>();
  }
  if (wants("gradients")) {
    CheckGradientProblems<__nv_bfloat16>();
    CheckGradientProblems<__half>();
  }
}

// What has one kernel for all capabilities.
void RunCommonChecks(const char* only) {
  if (only == nullptr || std::strcmp(only, "forward") == 0) {
    CheckPhilox();
    CheckActivations();
  }
  if (only == nullptr || std::strcmp(only, "hidden") == 0) {
    CheckHiddenProblems<__nv_bfloat16>();
    CheckHiddenProblems<__half>();
    CheckHiddenProblems<float>();
    CheckAddBlocks();
  }
}

void RunTimes() {
  const JointShape small{32, 400, 100, 640, 1024}, large{16, 400, 100, 640, 4096};
  Problem dropout{small};
  dropout.options.threshold = 13107;
  Problem wide{small};
  wide.options.behind = 8;
  wide.options.picks = 5;
  for (const Problem& problem : {Problem{small}, Problem{small, Activation::kRelu}, dropout, wide,
                                 Problem{large}, Problem{{16, 400, 100, 1024, 4096}}}) {
    Time<__nv_bfloat16>(problem);
  }
  for (int R : {264, 325, 396}) TimeBackward<__nv_bfloat16>({small}, R);
  for (const Problem& problem : {dropout, wide}) TimeBackward<__nv_bfloat16>(problem, 325);
  for (int R : {132, 162, 264}) TimeBackward<__nv_bfloat16>({large}, R);
  // All tiles of the lattices: 32 x 25 x 13 and 16 x 25 x 13.
  TimeBackward<__nv_bfloat16>({small}, 10400);
  TimeBackward<__nv_bfloat16>({large}, 5200);
}

int Main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "all";
  const char* only = argc > 2 && std::strcmp(argv[2], "all") != 0 ? argv[2] : nullptr;
  const int only_capability = argc > 3 ? std::atoi(argv[3]) : 0;
  is_small = std::strcmp(what, "small") == 0;
  const bool wants_check = is_small || std::strcmp(what, "time") != 0;
  const bool wants_time = std::strcmp(what, "all") == 0 || std::strcmp(what, "time") == 0;
  int major = 0, minor = 0;
  Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "device");
  Check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "device");
  const int own = 10 * major + minor;
  if (wants_check) RunCommonChecks(only);
  // A GPU with more shared memory runs the kernels of those with less.
  const int others[] = {80, 86};
  std::vector<int> capabilities{own};
  for (int other : others) {
    if (cuda::TargetOf(other).shared_bytes < cuda::TargetOf(own).shared_bytes) {
      capabilities.push_back(other);
    }
  }
  for (int each : capabilities) {
    if (only_capability != 0 && each != only_capability) continue;
    capability = each;
    target = cuda::TargetOf(each);
    if (wants_check) RunChecks(only);
    if (wants_time) RunTimes();
  }
  if (wants_check) std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace jax_rnnt::joint_check

int main(int argc, char** argv) { return jax_rnnt::joint_check::Main(argc, argv); }
