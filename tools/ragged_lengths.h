// Ragged sequences for the programs that run every lattice kernel: their lengths, and their layout.
#ifndef JAX_RNNT_TOOLS_RAGGED_LENGTHS_H_
#define JAX_RNNT_TOOLS_RAGGED_LENGTHS_H_

#include <cstdint>
#include <vector>

#include "core/lattice_layout.h"

namespace jax_rnnt {

struct RaggedLengths {
  std::vector<int32_t> frames, labels;
  std::vector<int32_t> offsets;  // of the sequences, packed one after another
  int64_t cells = 0;             // of all of them
};

// N sequences of up to T frames and U - 1 labels, of which the first has as many.
template <typename Random>
RaggedLengths DrawLengths(Random& random, int N, int T, int U) {
  RaggedLengths lengths;
  for (int n = 0; n < N; ++n) {
    const int32_t frames = n == 0 ? T : 1 + static_cast<int32_t>(random() % T);
    const int32_t labels = n == 0 ? U - 1 : static_cast<int32_t>(random() % U);
    lengths.frames.push_back(frames);
    lengths.labels.push_back(labels);
    lengths.offsets.push_back(static_cast<int32_t>(lengths.cells));
    lengths.cells += int64_t{frames} * (labels + 1);
  }
  return lengths;
}

inline LatticeLayout PaddedLayout(int N, int T, int U, const int32_t* frames,
                                  const int32_t* labels) {
  LatticeLayout layout;
  layout.sequences = N;
  layout.max_frames = T;
  layout.max_columns = U;
  layout.frames_lengths = frames;
  layout.labels_lengths = labels;
  return layout;
}

// One group of `cells` cells. max_columns: any bound of the columns of a sequence.
inline LatticeLayout CompactLayout(int N, int64_t cells, int max_columns, const int32_t* frames,
                                   const int32_t* labels, const int32_t* offsets) {
  LatticeLayout layout;
  layout.sequences = N;
  layout.max_frames = cells;
  layout.max_columns = max_columns;
  layout.frames_lengths = frames;
  layout.labels_lengths = labels;
  layout.offsets = offsets;
  layout.sequences_per_group = N;
  layout.rows_per_group = cells;
  return layout;
}

}  // namespace jax_rnnt

#endif  // JAX_RNNT_TOOLS_RAGGED_LENGTHS_H_
