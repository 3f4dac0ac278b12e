#!/usr/bin/env bash
# The CPU kernels under the compiler's sanitizers.
#
#   tools/check_cpu.sh kernels         tools/every_cpu_kernel.cc under AddressSanitizer with
#                                      UndefinedBehaviorSanitizer, and under ThreadSanitizer, for
#                                      each instruction set that this machine has
#   tools/check_cpu.sh module [ARGS]   the native module under AddressSanitizer with
#                                      UndefinedBehaviorSanitizer, in the test suite; ARGS go to
#                                      pytest (default: a part of it that takes minutes)
#   tools/check_cpu.sh                 both
#
# Needs: g++ with libasan, libubsan and libtsan; for `module` also a Python ($PYTHON, default python3)
# with JAX, nanobind, pytest and hypothesis.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
cxx=${CXX:-g++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

has() { grep -qw "$1" /proc/cpuinfo; }
instruction_sets=(baseline)
if [ "$(uname -m)" = x86_64 ]; then
  if has avx2 && has fma; then instruction_sets+=(avx2); fi
  if has avx512vl && has avx512dq && has avx512bw; then instruction_sets+=(avx512); fi
fi

# compile_kernels DIRECTORY FLAGS...: the object files of cpp/cpu, as CMakeLists.txt builds them.
compile_kernels() {
  local directory=$1 isa source flags
  shift
  mkdir -p "$directory"
  local x86=()
  if [ "$(uname -m)" = x86_64 ]; then x86=(-DJAX_RNNT_X86); fi
  local common=(-std=c++17 -fPIC -g -Icpp "${x86[@]}" "$@")
  for source in isa lattice/align lattice/arcs lattice/lattice rows/entries rows/pick; do
    "$cxx" -O1 "${common[@]}" -c "cpp/cpu/$source.cc" -o "$directory/${source##*/}.o"
  done
  for isa in baseline avx2 avx512; do
    case $isa in
      avx2) flags=(-mavx2 -mfma) ;;
      avx512) flags=(-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma) ;;
      *) flags=() ;;
    esac
    if [ "$isa" != baseline ] && [ "$(uname -m)" != x86_64 ]; then continue; fi
    for source in lattice/align_sequence lattice/arcs_sequence lattice/sequence \
      rows/entries_rows rows/pick_rows; do
      "$cxx" -O3 -fno-math-errno -fno-trapping-math "${common[@]}" "${flags[@]}" \
        "-DJAX_RNNT_ISA_NAMESPACE=$isa" -c "cpp/cpu/$source.cc" -o "$directory/$isa-${source##*/}.o"
    done
  done
}

address_flags=(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
thread_flags=(-fsanitize=thread)

kernels() {
  local name isa
  for name in address thread; do
    local -n flags=${name}_flags
    compile_kernels "$work/$name" "${flags[@]}"
    "$cxx" -O1 -g -std=c++17 -pthread -Icpp "${flags[@]}" tools/every_cpu_kernel.cc \
      "$work/$name"/*.o -o "$work/every_cpu_kernel_$name"
    for isa in "${instruction_sets[@]}"; do
      echo "== $name sanitizer, $isa"
      JAX_RNNT_ISA=$isa "$work/every_cpu_kernel_$name"
    done
  done
}

module() {
  compile_kernels "$work/module" "${address_flags[@]}"
  mkdir -p "$work/site"
  cp -r jax_rnnt "$work/site/"
  rm -f "$work"/site/jax_rnnt/*.so
  local includes
  includes=$("$python" - <<'PYTHON'
import importlib.metadata, importlib.util, sysconfig
import nanobind

root = importlib.util.find_spec("jaxlib").submodule_search_locations[0]
nb = nanobind.include_dir()
print(f"-isystem {root}/include -isystem {nb} -isystem {nb}/../ext/robin_map/include "
      f"-isystem {sysconfig.get_paths()['include']} "
      f'-DJAX_RNNT_JAXLIB_VERSION="{importlib.metadata.version("jaxlib")}" {nb}/../src/nb_combined.cpp')
PYTHON
  )
  local nanobind=${includes##* }
  # shellcheck disable=SC2206  # the flags are words
  local words=(${includes% *})
  local suffix
  suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
  "$cxx" -O1 -fPIC -std=c++17 -fno-strict-aliasing "${words[@]}" -c "$nanobind" -o "$work/nanobind.o"
  "$cxx" -O1 -g -fPIC -std=c++17 -Icpp "${words[@]}" "${address_flags[@]}" \
    -c cpp/ffi/cpu_module.cc -o "$work/cpu_module.o"
  "$cxx" -shared "${address_flags[@]}" "$work/cpu_module.o" "$work/nanobind.o" "$work"/module/*.o \
    -o "$work/site/jax_rnnt/_cpu$suffix"
  local tests=("$@")
  if [ ${#tests[@]} = 0 ]; then
    tests=(tests/xla/test_handlers.py tests/rows
      tests/losses/test_{edges,compact,values,random,sizes}.py)
  fi
  export PYTHONPATH="$work/site:$PWD" PYTHONSAFEPATH=1 JAX_PLATFORMS=cpu JAX_RNNT_REQUIRE_NATIVE=1
  # Python and XLA leak by design.
  export ASAN_OPTIONS=detect_leaks=0
  LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libstdc++.so)"
  export LD_PRELOAD
  "$python" -c 'from jax_rnnt import _cpu; print("testing", _cpu.__file__)'
  "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
}

command=${1:-all}
shift || true
case $command in
  kernels) kernels ;;
  module) module "$@" ;;
  *) kernels && module ;;
esac
