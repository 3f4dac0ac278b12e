#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>

namespace jax_rnnt::cpu {
namespace {

Isa Detect() {
#if defined(JAX_RNNT_X86)
  // JAX_RNNT_ISA names the set to use, for tests of the narrower kernels on a wider machine.
  const char* wanted = std::getenv("JAX_RNNT_ISA");
  auto allowed = [wanted](Isa isa) {
    return wanted == nullptr || std::strcmp(wanted, "") == 0 ||
           std::strcmp(wanted, IsaName(isa)) == 0;
  };
  if (allowed(Isa::kAvx512) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    return Isa::kAvx512;
  }
  if (allowed(Isa::kAvx2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return Isa::kAvx2;
  }
#endif
  return Isa::kBaseline;
}

}  // namespace

Isa BestIsa() {
  static const Isa best = Detect();
  return best;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kBaseline:
      break;
  }
  return "baseline";
}

}  // namespace jax_rnnt::cpu
