#!/usr/bin/env bash
# Runs every fuzz target of the module, one after another, and prints a table.
#
#   tools/fuzz.sh [DURATION [REGEXP]]      e.g. tools/fuzz.sh 30s Safetensors
#
# REGEXP chooses among "package.Target". Each target's output is kept under
# .cache/fuzz; a crash also leaves its input under the package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."

duration=${1:-2m} only=${2:-.}
go=${GO:-go} out=.cache/fuzz
mkdir -p "$out"

targets=$(grep -rhoE --include='*_test.go' -H '^func Fuzz[A-Za-z0-9_]*\(' --exclude-dir=.cache --exclude-dir=testdata . |
  sed -E 's#^\./##; s#/[^/]*_test\.go:func (Fuzz[A-Za-z0-9_]*)\(#.\1#' | sort -u | grep -E "$only" || true)
[ -n "$targets" ] || { echo "fuzz: no target matches $only" >&2; exit 2; }

printf '%-52s %8s %12s %9s %8s\n' target time execs new crashes
bad=0 total=0
# try runs one target; its output goes to $log.
try() {
  "$go" test -run='^$' -fuzz="^$name\$" -fuzztime="$duration" -fuzzminimizetime=20x -parallel=2 "./$pkg" >"$log" 2>&1 </dev/null
}
while IFS= read -r t; do
  pkg=${t%.*} name=${t##*.}
  log=$out/${pkg//\//_}.$name.log
  start=$SECONDS crashes=0 note=
  # The go command now and then takes the end of its own time for a failure
  # (context deadline exceeded): such a run is repeated.
  if ! try && { ! grep -q 'context deadline exceeded' "$log" || grep -q 'Failing input' "$log" || ! try; }; then
    crashes=1
    grep -qE 'Failing input|panic|seed corpus entry' "$log" || note='  did not run'
  fi
  # fuzz: elapsed: 30s, execs: 123456 (4115/sec), new interesting: 12 (total: 40)
  last=$(grep -E '^fuzz: elapsed: .*execs:' "$log" | tail -n 1 || true)
  execs=$(sed -E 's/.*execs: ([0-9]+).*/\1/' <<<"$last")
  new=$(grep -oE 'new interesting: [0-9]+' <<<"$last" | grep -oE '[0-9]+' || true)
  [ "$crashes" = 1 ] || [ -n "$last" ] || note='  seeds only: too short'
  printf '%-52s %7ss %12s %9s %8s%s\n' "$t" "$((SECONDS - start))" "${execs:-0}" "${new:-0}" "$crashes" "$note"
  if [ "$crashes" = 1 ]; then
    bad=$((bad + 1))
    grep -E 'Failing input|go test -run|FAIL|panic' "$log" | sed 's/^/    /' | head -n 8 || true
    echo "    whole output: $log"
  fi
  total=$((total + 1))
done <<<"$targets"

echo "$total targets, $bad failed"
[ "$bad" = 0 ]
