#!/usr/bin/env bash
# Makes every golden anew: run.sh [SMOLLM2_GGUF]
#
# Tiny models always; SmolLM2 and the voices of examples/adapters when the GGUF is
# given. GOLDENS_VENV names the Python environment (built by setup.sh if missing).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=${GOLDENS_VENV:-$root/.venv/goldens}
out=${GOLDENS_OUT:-$root/worker/model/testdata}

"$venv/bin/python" -c 'import torch, peft, gguf' 2>/dev/null || "$here/setup.sh" "$venv"

# One thread and fixed hashes: the same machine writes the same bytes each time.
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

mkdir -p "$out"
"$venv/bin/python" "$here/tiny.py" "$out"

if [ -n "${1:-}" ]; then
	"$venv/bin/python" "$here/smollm2.py" "$1" "$out/smollm2"
	for voice in "$root"/examples/adapters/*/adapter_config.json; do
		[ -e "$voice" ] || continue
		"$venv/bin/python" "$here/smollm2.py" "$1" "$out/smollm2" --adapter "$(dirname "$voice")" \
			--tasks "$root/examples/voices/heldout"
	done
fi
