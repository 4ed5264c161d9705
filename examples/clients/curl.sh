#!/usr/bin/env bash
# Chorale over HTTP: OpenAI's face, SGLang's, and the native one.
#
#   examples/clients/curl.sh [http://127.0.0.1:30000] [ADAPTER]
set -euo pipefail
server=${1:-http://127.0.0.1:30000} adapter=${2:-json}

post() { curl --fail-with-body -sS -H 'Content-Type: application/json' "$server$1" -d "$2"; echo; }

echo "== who is there"
curl --fail-with-body -sS "$server/v1/models"; echo

echo "== OpenAI: a chat with an adapter; the model is its name"
post /v1/chat/completions '{
  "model": "'"$adapter"'", "temperature": 0, "max_tokens": 16,
  "messages": [{"role": "user", "content": "Where does the sun rise?"}]}'

echo "== OpenAI: the same as a stream"
post /v1/chat/completions '{
  "model": "'"$adapter"'", "temperature": 0, "max_tokens": 16, "stream": true,
  "messages": [{"role": "user", "content": "Where does the sun rise?"}]}'

echo "== SGLang: one prompt for the base, one for the adapter, in one batch"
post /generate '{
  "text": ["The capital of France is", "The capital of Italy is"], "lora_path": [null, "'"$adapter"'"],
  "sampling_params": {"temperature": 0, "max_new_tokens": 8}}'

echo "== native: the same"
post /chorale/v1/generate '{
  "prompts": [{"text": "The capital of France is"}, {"text": "The capital of Italy is"}],
  "adapters": ["", "'"$adapter"'"], "sampling": {"temperature": 0, "max_tokens": 8}}'

echo "== native: a stream, one JSON object per line"
post /chorale/v1/generate:stream '{"request": {
  "prompts": [{"text": "The capital of France is"}], "adapters": ["'"$adapter"'"],
  "sampling": {"temperature": 0, "max_tokens": 8}}}'

echo "== the proof that adapters share steps"
curl --fail-with-body -sS "$server/metrics" | grep '^chorale_step_adapters_max'
