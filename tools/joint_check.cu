// Checks the fused joint network, forward and backward, against the same sums in double precision,
// and times it. Exits with 1 unless every output of every problem is within its bound.
//
//   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -Icpp tools/joint_check.cu
//     cpp/cuda/joint/*.cu -o joint_check
//   ./joint_check [check | small | time] [forward | gradients | hidden]
//
// The reference rounds the same activations to the half type: where the two disagreed in one, its
// rounding would hide every other error. The activations are compared with their definitions apart.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>
#include <cstring>

#include "joint_check/activations.cuh"
#include "joint_check/cells.cuh"
#include "joint_check/forward.cuh"
#include "joint_check/gradients.cuh"
#include "joint_check/hidden.cuh"
#include "joint_check/problems.cuh"
#include "joint_check/times.cuh"

namespace jax_rnnt::joint_check {
namespace {

int Main(int argc, char** argv) {
  is_small = argc > 1 && std::strcmp(argv[1], "small") == 0;
  const bool wants_check = argc < 2 || is_small || std::strcmp(argv[1], "check") == 0;
  const bool wants_time = argc < 2 || std::strcmp(argv[1], "time") == 0;
  if (wants_check) {
    // A sanitizer takes minutes for all of them.
    const auto wants = [&](const char* part) {
      return argc < 3 || std::strcmp(argv[2], part) == 0;
    };
    if (wants("forward")) {
      CheckPhilox();
      CheckActivations();
      CheckProblems<__nv_bfloat16>();
      CheckProblems<__half>();
    }
    if (wants("gradients")) {
      CheckGradientProblems<__nv_bfloat16>();
      CheckGradientProblems<__half>();
    }
    if (wants("hidden")) {
      CheckHiddenProblems<__nv_bfloat16>();
      CheckHiddenProblems<__half>();
      CheckHiddenProblems<float>();
      CheckAddBlocks();
    }
    std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  }
  if (wants_time) {
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
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace jax_rnnt::joint_check

int main(int argc, char** argv) { return jax_rnnt::joint_check::Main(argc, argv); }
