#!/usr/bin/env bash
# Builds jax_rnnt on a machine with an NVIDIA GPU, then tests, checks and times its kernels there.
#
#   tools/check_gpu.sh build            install into $SITE (default: a temporary directory)
#   tools/check_gpu.sh test [ARGS]      the test suite on the GPU; ARGS go to pytest
#   tools/check_gpu.sh sanitize         compute-sanitizer over every kernel (tools/every_kernel.cu)
#   tools/check_gpu.sh time [ARGS]      benchmarks/loss.py; ARGS go to it
#   tools/check_gpu.sh kernels [ARGS]   benchmarks/kernels.cu; ARGS go to it
#
# Needs: nvcc, compute-sanitizer, and a Python ($PYTHON, default python3) with JAX for CUDA,
# scikit-build-core, nanobind, pytest and hypothesis. No network: build isolation is off.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=${SITE:-${TMPDIR:-/tmp}/jax_rnnt_site}
# The installed package first; the repository behind it, for benchmarks/.
export PYTHONPATH=$site:$PWD PYTHONSAFEPATH=1 XLA_PYTHON_CLIENT_PREALLOCATE=false

build() {
  rm -rf "$site"
  JAX_RNNT_CUDA=on CUDAARCHS=${CUDAARCHS:-native} CUDAFLAGS="${CUDAFLAGS-}" \
    "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index --target "$site" .
  "$python" -m jax_rnnt
}

run_benchmark() {
  # Each of its processes has the device to itself.
  env -u XLA_PYTHON_CLIENT_PREALLOCATE "$python" -m benchmarks.loss "$@"
}

run_tests() {
  JAX_RNNT_REQUIRE_GPU=1 JAX_RNNT_REQUIRE_NATIVE=1 "$python" -m pytest -q "$@"
}

sanitize() {
  local program=$site/every_kernel
  mkdir -p "$site"
  nvcc -std=c++17 -arch=native -lineinfo -Icpp tools/every_kernel.cu cpp/cuda/*.cu -o "$program"
  for tool in memcheck racecheck initcheck synccheck; do
    echo "== $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$program"
  done
}

time_kernels() {
  local program=$site/kernels
  mkdir -p "$site"
  nvcc -O2 -std=c++17 -arch=native -Icpp benchmarks/kernels.cu cpp/cuda/*.cu -o "$program"
  "$program" "$@"
}

command=${1:-all}
shift || true
case $command in
  build) build ;;
  test) run_tests "$@" ;;
  sanitize) sanitize ;;
  time) run_benchmark "$@" ;;
  kernels) time_kernels "$@" ;;
  *) build && run_tests && sanitize && run_benchmark && time_kernels ;;
esac
