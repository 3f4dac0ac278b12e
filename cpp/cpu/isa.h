// The functions that are compiled once for each instruction set, and the choice among the sets at
// run time.
//
// Each instruction set has a namespace with the same functions. The files of these functions are
// compiled with the set's flags, and they use no inline function of a library: the linker keeps one
// copy of an inline function, which could be one that this machine cannot run.
#ifndef JAX_RNNT_CPU_ISA_H_
#define JAX_RNNT_CPU_ISA_H_

#include <cstdint>

#include "core/arcs.h"
#include "core/best_path.h"
#include "core/entries.h"
#include "core/lattice_layout.h"
#include "core/scaled.h"

namespace jax_rnnt::cpu {

// What the cotangents of one sequence are computed from, and where they go. The arrays of arcs are
// those of all sequences, initial and final_weights its own.
template <typename Real>
struct ArcsCotangents {
  Scaled<Real> total;
  Real cotangent;
  const Scaled<Real>* alphas;
  const Scaled<Real>* betas;
  Real* const* arcs;
  Real* initial = nullptr;
  Real* final_weights = nullptr;
};

// PickForwardRows, PickBackwardRows: rows [begin, end) of what cpu/rows/pick.h says; `buffer` is
// scratch of V Reals. EntriesForwardRows, EntriesBackwardRows: rows [begin, end) of what
// cpu/rows/entries.h says, labels[0] being that of row `begin`; biases.values, bounds and
// bias_parts may be null, and with bias_parts `begin` is the first row of a part. SequenceForward,
// SequenceBackward: one sequence, as cpu/lattice/sequence.cc says. ArcsAlpha, ArcsBeta and, of the
// frames [begin, end), ArcsPosteriors: one sequence, as cpu/lattice/arcs_sequence.cc says.
// SequenceAlign: what LatticeAlign of cpu/lattice/align.h says of one sequence of a frame or more,
// `scores` being both those before and those behind, and its words, which are zeros before.
#define JAX_RNNT_DECLARE_KERNELS(isa)                                                            \
  namespace isa {                                                                                \
  template <typename T, typename Real>                                                           \
  void PickForwardRows(int64_t begin, int64_t end, int64_t V, int64_t blank, const T* logits,    \
                       const int32_t* labels, Real* blank_log_probs, Real* label_log_probs,      \
                       Real* maxima, Real* log_sums, Real* buffer);                              \
  template <typename T, typename Real>                                                           \
  void PickBackwardRows(int64_t begin, int64_t end, int64_t V, int64_t blank, const T* logits,   \
                        const int32_t* labels, const Real* maxima, const Real* log_sums,         \
                        const Real* blank_cotangents, const Real* label_cotangents,              \
                        T* logits_cotangents, Real* buffer);                                     \
  template <typename T, typename Real>                                                           \
  void EntriesForwardRows(int64_t begin, int64_t end, const EntriesOptions& options,             \
                          const T* logits, const RowBiases<Real>& biases, const int32_t* labels, \
                          const EntriesResults<Real>& results, Real* buffer);                    \
  template <typename Logit, typename T, typename Real>                                           \
  void EntriesBackwardRows(int64_t begin, int64_t end, const EntriesOptions& options,            \
                           const Logit* logits, const RowBiases<Real>& biases,                   \
                           const int32_t* labels, const Real* bounds, const Real* maxima,        \
                           const Real* log_sums, const EntriesCotangents<Real>& cotangents,      \
                           T* logits_cotangents, Real* bias_parts, Real* buffer);                \
  template <typename Real>                                                                       \
  Scaled<Real> SequenceForward(const LatticeSequence& sequence, const Real* blank_log_probs,     \
                               const Real* label_log_probs, Scaled<Real>* alphas,                \
                               Real* workspace);                                                 \
  template <typename Real>                                                                       \
  void SequenceBackward(const LatticeSequence& sequence, Scaled<Real> total, Real cotangent,     \
                        const Real* blank_log_probs, const Real* label_log_probs,                \
                        const Scaled<Real>* alphas, Real* blank_cotangents,                      \
                        Real* label_cotangents, Real* workspace);                                \
  template <typename Real>                                                                       \
  Scaled<Real> ArcsAlpha(const LatticeSequence& sequence, const ArcTopology& topology,           \
                         const ArcArrays<Real>& arrays, Scaled<Real>* alphas, Real* workspace);  \
  template <typename Real>                                                                       \
  void ArcsBeta(const LatticeSequence& sequence, const ArcTopology& topology,                    \
                const ArcArrays<Real>& arrays, Scaled<Real>* betas, Real* workspace);            \
  template <typename Real>                                                                       \
  void ArcsPosteriors(const LatticeSequence& sequence, const ArcTopology& topology,              \
                      const ArcArrays<Real>& arrays, const ArcsCotangents<Real>& cotangents,     \
                      int64_t begin, int64_t end, Real* workspace);                              \
  template <typename Real>                                                                       \
  void SequenceAlign(const PathFrames& sequence, const Real* blank_log_probs,                    \
                     const Real* label_log_probs, PathScore<Real>* scores, int32_t* words,       \
                     double* workspace);                                                         \
  }

JAX_RNNT_DECLARE_KERNELS(baseline)
#if defined(JAX_RNNT_X86)
JAX_RNNT_DECLARE_KERNELS(avx2)
JAX_RNNT_DECLARE_KERNELS(avx512)
#endif
#undef JAX_RNNT_DECLARE_KERNELS

// The workspace of SequenceForward and SequenceBackward: kWorkspacePerColumn Reals for each column
// of the sequence, and for kWorkspaceMoreColumns columns more. Of ArcsAlpha and ArcsBeta: as many
// columns, with two Reals for each frame of the longest arc and two more. Of ArcsPosteriors: two
// Reals for each column. Of SequenceAlign: kAlignWorkspacePerColumn doubles for each column and for
// kWorkspaceMoreColumns more.
inline constexpr int64_t kWorkspacePerColumn = 6;
inline constexpr int64_t kAlignWorkspacePerColumn = 36;
inline constexpr int64_t kWorkspaceMoreColumns = 48;

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The widest instruction set of this machine for which there are kernels.
Isa BestIsa();
const char* IsaName(Isa isa);

}  // namespace jax_rnnt::cpu

// The function of the best instruction set: JAX_RNNT_BEST_ISA(PickForwardRows<float, float>).
#if defined(JAX_RNNT_X86)
#define JAX_RNNT_BEST_ISA(...)                                 \
  (::jax_rnnt::cpu::BestIsa() == ::jax_rnnt::cpu::Isa::kAvx512 \
       ? &::jax_rnnt::cpu::avx512::__VA_ARGS__                 \
   : ::jax_rnnt::cpu::BestIsa() == ::jax_rnnt::cpu::Isa::kAvx2 \
       ? &::jax_rnnt::cpu::avx2::__VA_ARGS__                   \
       : &::jax_rnnt::cpu::baseline::__VA_ARGS__)
#else
#define JAX_RNNT_BEST_ISA(...) (&::jax_rnnt::cpu::baseline::__VA_ARGS__)
#endif

#endif  // JAX_RNNT_CPU_ISA_H_
