// Launches the walk of best paths, and the way back over its choices.
#include <algorithm>

#include "cuda/lattice/align.h"
#include "cuda/lattice/align_walk.cuh"

namespace jax_rnnt::cuda {
namespace {

constexpr int kTraceWarps = 4;
// Words of a column on their way: a path passes a word in less time than one load takes.
constexpr int kWordsAhead = 4;

// One warp for each sequence. Lane i has the word of column `top - i`: up to 32 labels are found
// without a load, and the words of the frames before are on their way.
template <typename Real>
__global__ void __launch_bounds__(kTraceWarps* kWarpSize)
    TraceKernel(const __grid_constant__ PathWordsLayout layout, const PathScore<Real>* scores,
                const int32_t* words, Real* log_probs, int32_t* label_frames) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t n = int64_t{blockIdx.x} * kTraceWarps + threadIdx.x / kWarpSize;
  if (n >= layout.sequences) return;  // the whole warp
  const int64_t U = layout.max_columns;
  const PathWords sequence = layout.Words(n);
  int32_t* const frames = label_frames + n * U;
  for (int64_t u = lane; u < U; u += kWarpSize) frames[u] = kNoFrame;
  Real log_prob = Real(NAN);
  if (sequence.valid) log_prob = ToNats(scores[n * U + sequence.columns - 1]);
  if (lane == 0) log_probs[n] = log_prob;
  if (!(log_prob > Real(-HUGE_VAL))) return;
  __syncwarp();  // the frames of labels come behind those of none

  int u = sequence.columns - 1, top = u;
  int row = (sequence.frames - 1) / kFramesPerWord;
  uint32_t so_far = ~0u >> (kFramesPerWord - 1 - (sequence.frames - 1) % kFramesPerWord);
  const auto load = [&](int from) {
    const bool is_there = from >= 0 && top - lane > 0;
    const int64_t place = sequence.first + from * sequence.stride + top - lane;
    return is_there ? static_cast<uint32_t>(words[place]) : 0u;
  };
  uint32_t word[kWordsAhead];  // of this row of words and of those before it
  const auto load_all = [&] {
#pragma unroll
    for (int i = 0; i < kWordsAhead; ++i) word[i] = load(row - i);
  };
  load_all();
  int32_t frame = kNoFrame;  // of the label that leads to this lane's column
  while (u > 0) {
    const int place = top - u;
    const uint32_t labels = __shfl_sync(kAllLanes, word[0], place) & so_far;
    if (labels != 0) {
      const int bit = kFramesPerWord - 1 - __clz(static_cast<int>(labels));
      so_far = ~0u >> (kFramesPerWord - 1 - bit);
      if (lane == place) frame = row * kFramesPerWord + bit;
      --u;
      if (place == kWarpSize - 1) {
        frames[top - lane - 1] = frame;
        top = u;
        load_all();
      }
    } else if (--row < 0) {
      break;  // words that no walk has left
    } else {
      so_far = ~0u;
#pragma unroll
      for (int i = 1; i < kWordsAhead; ++i) word[i - 1] = word[i];
      word[kWordsAhead - 1] = load(row - (kWordsAhead - 1));
    }
  }
  if (top - lane > u) frames[top - lane - 1] = frame;
}

}  // namespace

template <typename Real>
cudaError_t LatticeAlign(cudaStream_t stream, const LatticeLayout& layout,
                         const Real* blank_log_probs, const Real* label_log_probs,
                         const PathScore<Real>* before, PathScore<Real>* after, int32_t* words,
                         double* scratch) {
  if (layout.sequences == 0) return cudaSuccess;
  if (layout.sequences > INT32_MAX) return cudaErrorInvalidValue;
  const AlignArguments<Real> arguments = {
      layout,  WordsOfPath(layout),       blank_log_probs, label_log_probs, before, after, words,
      scratch, CountAlignScratch(layout),
  };
  const int64_t groups = layout.sequences / arguments.words_layout.sequences_per_group;
  const int64_t word_bytes = groups * arguments.words_layout.words_per_group * sizeof(int32_t);
  cudaError_t error = cudaMemsetAsync(words, 0, word_bytes, stream);
  if (error != cudaSuccess) return error;

  int device = 0, shared_memory = 0;
  error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  const auto kernel = AlignKernel<Real>;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory);
  if (error != cudaSuccess) return error;
  constexpr int kColumnBytes = sizeof(align::Columns<Real>);
  constexpr int kMoreBytes = align::kRing * sizeof(double);  // what the last columns emit
  const int most = std::clamp((shared_memory - kMoreBytes) / kColumnBytes, 1, align::kMaxWarps);
  const int64_t needed = (layout.max_columns + kWarpSize - 1) / kWarpSize;
  const int64_t panels = (needed + most - 1) / most;
  const int warps = static_cast<int>((needed + panels - 1) / panels);
  kernel<<<static_cast<unsigned>(layout.sequences), warps * kWarpSize,
           warps * kColumnBytes + kMoreBytes, stream>>>(arguments);
  return cudaGetLastError();
}

template <typename Real>
cudaError_t LatticeTrace(cudaStream_t stream, const PathWordsLayout& layout,
                         const PathScore<Real>* scores, const int32_t* words, Real* log_probs,
                         int32_t* label_frames) {
  const int64_t blocks = (layout.sequences + kTraceWarps - 1) / kTraceWarps;
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  TraceKernel<Real><<<static_cast<unsigned>(blocks), kTraceWarps * kWarpSize, 0, stream>>>(
      layout, scores, words, log_probs, label_frames);
  return cudaGetLastError();
}

#define JAX_RNNT_INSTANTIATE(Real)                                                                \
  template cudaError_t LatticeAlign(cudaStream_t, const LatticeLayout&, const Real*, const Real*, \
                                    const PathScore<Real>*, PathScore<Real>*, int32_t*, double*); \
  template cudaError_t LatticeTrace(cudaStream_t, const PathWordsLayout&, const PathScore<Real>*, \
                                    const int32_t*, Real*, int32_t*);
JAX_RNNT_INSTANTIATE(float)
JAX_RNNT_INSTANTIATE(double)
#undef JAX_RNNT_INSTANTIATE

}  // namespace jax_rnnt::cuda
