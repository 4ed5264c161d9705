#!/usr/bin/env bash
# Runs what of the kernels' tests needs no GPU: kernels as C++ on the CPU, one
# block after another, and the calls of NCCL against a library that records them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/on_cpu
mkdir -p $out
cxx=${CXX:-g++}
on_cpu=(-std=c++20 -O2 -fno-strict-aliasing -ffp-contract=off -x c++ -DCHORALE_ON_CPU -Ikernels/test/on_cpu -Ikernels/include -Ikernels/device)

run() { # NAME ARGS...
  "$cxx" "${on_cpu[@]}" "kernels/test/$1.cu" -o "$out/$1"
  echo "$1 $(printf '%s ' "${@:2}")"
  "$out/$1" "${@:2}"
}
run lora_test 4
run sample_test 2
run sample_shard_test 20
run peer_test 5

for kind in fake old poor; do
  "$cxx" -std=c++17 -shared -fPIC "-D${kind^^}" kernels/test/nccl_fake.cpp -o "$out/libnccl_$kind.so"
done
"$cxx" -std=c++17 -Ikernels/abi -x c++ kernels/abi/nccl.cu kernels/test/nccl_test.cpp -ldl -lpthread -o "$out/nccl_test"
echo nccl_test
"$out/nccl_test" "$out"
