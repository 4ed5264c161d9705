#!/usr/bin/env bash
# Chorale over gRPC; the server tells its services by reflection.
#
#   examples/clients/grpcurl.sh [127.0.0.1:30001] [ADAPTER]
#
# GRPCURL may name the program.
set -euo pipefail
server=${1:-127.0.0.1:30001} adapter=${2:-json} grpcurl=${GRPCURL:-grpcurl}

echo "== services"
"$grpcurl" -plaintext "$server" list

echo "== health"
"$grpcurl" -plaintext "$server" grpc.health.v1.Health/Check

echo "== a list of prompts and a list of adapters, one per prompt"
"$grpcurl" -plaintext -d '{
  "prompts": [{"text": "The capital of France is"}, {"chat": {"messages": [{"role": "user", "content": "Where does the sun rise?"}]}}],
  "adapters": ["", "'"$adapter"'"], "sampling": {"temperature": 0, "max_tokens": 8}}' \
  "$server" chorale.v1.InferenceService/Generate

echo "== a stream"
"$grpcurl" -plaintext -d '{"request": {
  "prompts": [{"text": "The capital of France is"}], "adapters": ["'"$adapter"'"], "sampling": {"temperature": 0, "max_tokens": 4}}}' \
  "$server" chorale.v1.InferenceService/GenerateStream

echo "== adapters"
"$grpcurl" -plaintext "$server" chorale.v1.AdapterService/ListAdapters
