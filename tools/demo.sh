#!/usr/bin/env bash
# The demo: one prompt, answered by the base model and by every adapter under
# examples/adapters at once.
#
#   tools/demo.sh BIN MODEL [--keep]
#
# KEEP=1 or --keep leaves the server running until ctrl-C, on PORT (30000).
# PROMPT changes what is asked. The server's log is .cache/demo.log.
set -euo pipefail

usage() { echo "usage: tools/demo.sh BIN MODEL [--keep]" >&2; exit 2; }
[ $# -ge 2 ] || usage
bin=$1 model=$2 keep=${KEEP:-}
case ${3:-} in --keep) keep=1 ;; "") ;; *) usage ;; esac
prompt=${PROMPT:-The shop in Porto sold 3 blue lamps to Ana Costa on 5 March 2026 for 42 euros.}

root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$root/.cache"
log=$root/.cache/demo.log
data=$(mktemp -d "${TMPDIR:-/tmp}/chorale-demo.XXXXXX")
server=

# stop ends the server: gently, then not.
stop() {
  [ -n "$server" ] || return 0
  kill "$server" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}
finish() {
  status=$?
  trap - EXIT INT TERM
  stop
  rm -rf "$data"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
  echo "demo: $*" >&2
  if [ -s "$log" ]; then
    echo "demo: the end of $log:" >&2
    tail -n 20 "$log" >&2
  fi
  exit 1
}

[ -x "$bin" ] || { echo "demo: no program $bin; make build makes it" >&2; exit 1; }
[ -f "$model" ] || { echo "demo: no model $model; make model fetches it" >&2; exit 1; }

voices=()
for dir in "$root"/examples/adapters/*/; do
  [ -f "$dir/adapter_config.json" ] || continue
  dir=${dir%/}
  voices+=("${dir##*/}=$dir")
done
[ ${#voices[@]} -gt 0 ] || { echo "demo: no adapters under examples/adapters" >&2; exit 1; }

# Port 0 lets the system choose one that is free.
port=0
[ -z "$keep" ] || port=${PORT:-30000}
: >"$log"
"$bin" serve --model-path "$model" --served-model-name smollm2 --lora-paths "${voices[@]}" \
  --data-dir "$data" --port "$port" >>"$log" 2>&1 &
server=$!

# The line "serving" comes when model and adapters are loaded, and tells the port.
url=
for _ in $(seq 600); do
  url=$(sed -n '/serving/s/.*"http": *"\(http[^"]*\)".*/\1/p' "$log")
  [ -z "$url" ] || break
  kill -0 "$server" 2>/dev/null || { wait "$server" || true; server=; fail "the server did not start"; }
  sleep 0.1
done
[ -n "$url" ] || fail "the server was not ready after 60 s"

echo "\$ chorale chat --all \"$prompt\""
echo
"$bin" chat --server "$url" --all --max-tokens "${MAX_TOKENS:-80}" "$prompt" || fail "the voices did not answer"
echo

ask="curl $url/v1/chat/completions -H 'Content-Type: application/json' -d \\
  '{\"model\": \"json\", \"temperature\": 0, \"messages\": [{\"role\": \"user\", \"content\": \"Omar returned 2 red chairs in Lyon on 1 May 2025.\"}]}'"
if [ -n "$keep" ]; then
  echo "The server stays at $url (log: ${log#"$PWD"/}). Ask one voice, from another terminal:"
  echo
  echo "$ask"
  echo
  echo "ctrl-C stops it."
  # The signal of ctrl-C reaches the server too: it drains and ends.
  trap 'wait "$server" 2>/dev/null || true; server=; exit 0' INT
  wait "$server" || fail "the server ended"
  exit 0
fi
echo "To keep the server and ask one voice:  make demo KEEP=1, then"
echo
echo "${ask/$url/http://127.0.0.1:30000}"
