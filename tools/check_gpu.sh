#!/usr/bin/env bash
# Builds jax_rnnt on a machine with an NVIDIA GPU, then tests, checks and times its kernels there.
#
#   tools/check_gpu.sh build            install into $SITE (default: a temporary directory)
#   tools/check_gpu.sh test [ARGS]      the test suite on the GPU, without ARGS also the tests that
#                                       need XLA's flags; ARGS go to pytest
#   tools/check_gpu.sh switches [ARGS]  the joint's tests on the kernels of each other compute
#                                       capability, and on none; ARGS go to pytest
#   tools/check_gpu.sh sanitize         compute-sanitizer over every kernel (tools/every_kernel.cu
#                                       and, from 8.0 on, tools/joint_check.cu)
#   tools/check_gpu.sh time [ARGS]      benchmarks/loss.py; ARGS go to it
#   tools/check_gpu.sh joint [ARGS]     benchmarks/joint.py; ARGS go to it
#   tools/check_gpu.sh family [ARGS]    benchmarks/family.py; ARGS go to it
#   tools/check_gpu.sh kernels [ARGS]   benchmarks/kernels.cu; ARGS go to it
#   tools/check_gpu.sh entries_kernels  tools/entries_check.cu, checks and times
#   tools/check_gpu.sh joint_kernels [ARGS]  tools/joint_check.cu, checks and times, from 8.0 on
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
  env -u XLA_PYTHON_CLIENT_PREALLOCATE "$python" -m "benchmarks.$1" "${@:2}"
}

run_tests() {
  JAX_RNNT_REQUIRE_GPU=1 JAX_RNNT_REQUIRE_NATIVE=1 "$python" -m pytest -q "$@"
}

# What XLA does on a GPU with these flags alone.
run_tests_with_flags() {
  XLA_FLAGS="--xla_gpu_deterministic_ops=true --xla_gpu_enable_command_buffer= ${XLA_FLAGS-}" \
    run_tests tests/speech/test_training.py tests/test_examples.py tests/test_speech_benchmark.py
}

# Exit status 2, and why: this GPU does not run the kernels that the switch names.
asks_for_the_joint='
import sys
from jax_rnnt.rows import joint_fused
try:
    joint_fused.capability()
except ValueError as error:
    print(error)
    sys.exit(2)
'

run_switches() {
  has_joint || { echo "the plain tiles are all that this GPU runs"; return; }
  local switch status failed=0
  for switch in 8.0 8.6 none; do
    echo "== JAX_RNNT_JOINT_CAPABILITY=$switch"
    status=0
    JAX_RNNT_JOINT_CAPABILITY=$switch "$python" -c "$asks_for_the_joint" || status=$?
    case $status in 0) ;; 2) continue ;; *) return $status ;; esac
    JAX_RNNT_JOINT_CAPABILITY=$switch run_tests tests/losses/joint tests/losses/test_pruned*.py \
      tests/test_flax.py tests/xla/test_{handlers,sharding_types,derivatives}.py "$@" || failed=1
  done
  return $failed
}

has_joint() {
  [ "$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | cut -d. -f1)" -ge 8 ]
}

# compile PROGRAM MAIN [OPTIONS]: into $site, with the kernels that every GPU has.
compile() {
  mkdir -p "$site"
  local everywhere=(cpp/cuda/{rows,lattice}/*.cu cpp/cuda/joint/{add_blocks,hidden}.cu)
  nvcc -O2 -std=c++17 -arch=native -lineinfo -Icpp "${@:3}" "$2" "${everywhere[@]}" -o "$site/$1"
}

compile_joint() {
  mkdir -p "$site/wgmma"
  local file
  for file in pack forward gradients; do
    nvcc -O2 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -lineinfo -Icpp \
      -c "cpp/cuda/joint/wgmma/$file.cu" -o "$site/wgmma/$file.o"
  done
  nvcc -O2 -std=c++17 -arch=native -lineinfo -Icpp tools/joint_check.cu cpp/cuda/joint/{,mma/}*.cu \
    "$site"/wgmma/*.o -o "$site/joint_check"
}

sanitize() {
  compile every_kernel tools/every_kernel.cu
  # What racecheck follows: cpp/cuda/lattice/gate.cuh.
  compile every_kernel_racecheck tools/every_kernel.cu -DJAX_RNNT_EVERY_LANE_ARRIVES
  if has_joint; then compile_joint; fi
  for tool in memcheck racecheck initcheck synccheck; do
    local programs=("$site/every_kernel")
    [ "$tool" != racecheck ] || programs=("$site/every_kernel_racecheck")
    if has_joint; then programs+=("$site/joint_check small"); fi
    for program in "${programs[@]}"; do
      echo "== $tool $program"
      # shellcheck disable=SC2086  # a program and its argument
      compute-sanitizer --tool "$tool" --error-exitcode 1 $program
    done
  done
}

time_kernels() {
  compile kernels benchmarks/kernels.cu
  "$site/kernels" "$@"
}

check_entries_kernels() {
  compile entries_check tools/entries_check.cu
  "$site/entries_check" "$@"
}

check_joint_kernels() {
  has_joint || { echo "the fused kernels are for compute capability 8.0 and later" >&2; return; }
  compile_joint
  "$site/joint_check" "$@"
}

command=${1:-all}
shift || true
case $command in
  build) build ;;
  test) run_tests "$@" && if [ $# = 0 ]; then run_tests_with_flags; fi ;;
  switches) run_switches "$@" ;;
  sanitize) sanitize ;;
  time) run_benchmark loss "$@" ;;
  joint) run_benchmark joint "$@" ;;
  family) run_benchmark family "$@" ;;
  entries_kernels) check_entries_kernels "$@" ;;
  joint_kernels) check_joint_kernels "$@" ;;
  kernels) time_kernels "$@" ;;
  *) build && run_tests && run_tests_with_flags && run_switches && sanitize && run_benchmark loss &&
    run_benchmark joint && run_benchmark family && time_kernels && check_entries_kernels &&
    check_joint_kernels ;;
esac
