// Checks the row kernels of entries, forward and backward, against the same sums in double
// precision, and times them. Exits with 1 unless every output of every problem is within its bound.
//
//   nvcc -std=c++17 -O3 -arch=native -Icpp tools/entries_check.cu cpp/cuda/rows/*.cu
//     -o entries_check
//   ./entries_check [check | biased | time]
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdio>
#include <cstring>

#include "entries_check/biased.cuh"
#include "entries_check/checks.cuh"
#include "entries_check/huge.cuh"
#include "entries_check/problems.cuh"
#include "entries_check/times.cuh"

namespace jax_rnnt::entries_check {
namespace {

int Main(int argc, char** argv) {
  const auto wants = [&](const char* what) { return argc < 2 || std::strcmp(argv[1], what) == 0; };
  if (wants("check")) {
    CheckArguments();
    CheckProblems<float>();
    CheckProblems<__nv_bfloat16>();
    CheckProblems<__half>();
    CheckProblems<double>();
    CheckHuge<__nv_bfloat16>(2'200'000, 1024, 5);
    CheckHuge<float>(40'000'000, 50, 5);
    CheckHuge<__half>(2, 2147483642, 5);
    CheckHuge<double>(2'200'000, 1024, 5);
  }
  if (wants("biased")) {
    CheckBiasedProblems<float>();
    CheckBiasedProblems<__nv_bfloat16>();
    CheckBiasedProblems<__half>();
    CheckBiasedProblems<double>();
  }
  std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  if (wants("time")) TimeAll();
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace jax_rnnt::entries_check

int main(int argc, char** argv) { return jax_rnnt::entries_check::Main(argc, argv); }
