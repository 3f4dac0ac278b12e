// The type in which rows of logits are summed.
#ifndef JAX_RNNT_CUDA_ROWS_ACCUMULATOR_H_
#define JAX_RNNT_CUDA_ROWS_ACCUMULATOR_H_

namespace jax_rnnt::cuda {

// The type in which rows of T are summed, and of every array with one number a row.
template <typename T>
struct Accumulator {
  using Type = float;
};
template <>
struct Accumulator<double> {
  using Type = double;
};

}  // namespace jax_rnnt::cuda

#endif  // JAX_RNNT_CUDA_ROWS_ACCUMULATOR_H_
