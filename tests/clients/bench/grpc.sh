#!/usr/bin/env bash
# grpcurl and ghz, which know the services by reflection.
set -euo pipefail
bin=.cache/bin server=$CHORALE_GRPC key="authorization: Bearer $CHORALE_KEY"

ok() { echo "ok $*"; }
# has TEXT WORDS…: every word is in the text.
has() {
  local text=$1 word
  shift
  for word in "$@"; do [[ $text == *"$word"* ]] || { echo "no $word in: $text"; exit 1; }; done
}
# expected PATH: a value of what the voices must say.
expected() { python3 -c 'import functools, json, os, sys; print(functools.reduce(lambda v, k: v[k], sys.argv[1:], json.load(open(os.environ["CHORALE_EXPECT"]))))' "$@"; }
grpcurl() { "$bin/grpcurl" -plaintext -H "$key" "$@"; }

has "$(grpcurl "$server" list)" chorale.v1.InferenceService chorale.v1.AdapterService grpc.health.v1.Health
has "$(grpcurl "$server" describe chorale.v1.GenerateRequest)" 'repeated string adapters = 2'
ok reflection
has "$(grpcurl "$server" grpc.health.v1.Health/Check)" SERVING
ok health

prompt=$(expected prompt) text_prompt=$(expected text_prompt) n=$(expected text_tokens)
# doc: generate
grpcurl -d '{"prompts": [{"text": "'"$text_prompt"'"}, {"chat": {"messages": [{"role": "user", "content": "'"$prompt"'"}]}}],
  "adapters": ["json", "label"], "sampling": {"temperature": 0, "max_tokens": '"$n"'}}' \
  "$server" chorale.v1.InferenceService/Generate
# doc: end
answer=$(grpcurl -d '{"prompts": [{"text": "'"$text_prompt"'"}, {"chat": {"messages": [{"role": "user", "content": "'"$prompt"'"}]}}],
  "adapters": ["json", "label"], "sampling": {"temperature": 0, "max_tokens": '"$n"', "ignore_eos": false}}' "$server" chorale.v1.InferenceService/Generate)
has "$answer" "$(expected text json text)" "$(expected chat label text)" '"FINISH_REASON_LENGTH"' '"FINISH_REASON_STOP"'
ok grpcurl

# error STATUS WORDS… -- ARGS…: the call fails so.
error() {
  local words=() said
  while [[ $1 != -- ]]; do words+=("$1") && shift; done
  shift
  if said=$("$@" 2>&1); then echo "no error: $said" && exit 1; fi
  has "$said" "${words[@]}"
}
error '"code": 5' ADAPTER_NOT_FOUND -- grpcurl -format-error -d '{"prompts": [{"text": "x"}], "adapters": ["nobody"]}' "$server" chorale.v1.InferenceService/Generate
error '"code": 3' BadRequest sampling.temperature -- grpcurl -format-error -d '{"prompts": [{"text": "x"}], "sampling": {"temperature": -1}}' "$server" chorale.v1.InferenceService/Generate
error '"code": 7' ADMIN_KEY_REQUIRED -- grpcurl -format-error -d '{"name": "late", "source": "date"}' "$server" chorale.v1.AdapterService/LoadAdapter
ok grpcurl errors

# load CALL TOTAL REQUESTS: a load of TOTAL calls, which take turns with the
# requests; all must succeed. The services are known by reflection: ghz cannot
# read newer proto files.
load() {
  "$bin/ghz" --insecure --metadata="{\"authorization\": \"Bearer $CHORALE_KEY\"}" --reflect-metadata="{\"authorization\": \"Bearer $CHORALE_KEY\"}" \
    --total="$2" --concurrency=6 --connections=2 --timeout=120s --format=json --call="chorale.v1.InferenceService.$1" --data="$3" "$server" |
    python3 -c 'import json, sys; r = json.load(sys.stdin); assert r["statusCodeDistribution"] == {"OK": int(sys.argv[1])}, r; print("{rps:.1f} calls/s".format(**r))' "$2"
}
request() { echo '{"prompts": [{"text": "'"$text_prompt"'"}], "adapters": ["'"$1"'"], "sampling": {"temperature": 0, "max_tokens": 4}}'; }
load Generate 24 "[$(request json), $(request sql), $(request '')]"
ok ghz
load GenerateStream 12 "[{\"request\": $(request json)}, {\"request\": $(request sql)}]"
ok ghz streams
