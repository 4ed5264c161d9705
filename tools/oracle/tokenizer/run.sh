#!/bin/sh
# Fills $CHORALE_ORACLE_DIR with vocabularies and with what the reference makes
# of the corpus. Afterwards, with the variable set:
#   go test ./internal/tokenizer
# needs no network. Argument: the SmolLM2 GGUF file.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${CHORALE_ORACLE_DIR:?names the folder to fill}"
gguf=${1:?usage: run.sh smollm2.gguf}
mkdir -p "$CHORALE_ORACLE_DIR"
cp "$here/package.json" "$CHORALE_ORACLE_DIR/"
(cd "$CHORALE_ORACLE_DIR" && npm install --no-package-lock --no-audit --no-fund)
[ -d "$CHORALE_ORACLE_DIR/venv" ] || python3 -m venv "$CHORALE_ORACLE_DIR/venv"
python="$CHORALE_ORACLE_DIR/venv/bin/python"
"$python" -m pip install -q -r "$here/requirements.txt"
node "$here/corpus.mjs" "$CHORALE_ORACLE_DIR/corpus.json"
"$python" "$here/oracle.py" "$CHORALE_ORACLE_DIR" "$gguf"
"$python" "$here/probe.py" "$CHORALE_ORACLE_DIR/unicode.json"
cp "$here/second.mjs" "$CHORALE_ORACLE_DIR/"
(cd "$CHORALE_ORACLE_DIR" && node second.mjs)
