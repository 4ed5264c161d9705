#!/usr/bin/env bash
# Builds the Python environment that makes the goldens: setup.sh VENV_DIR
#
# The x86-64 Linux torch wheel of the public index is the CUDA build; its
# dependencies weigh gigabytes and nothing here touches a GPU. So torch is
# installed without them, and stub_cuda.py puts a stand-in for every CUDA library
# beside its own: the CPU code imports and computes, and torch reports no GPU.
#
# Needs: python3.11, gcc, readelf (binutils), about 2.5 GB of disk.
set -euo pipefail

venv=${1:?usage: setup.sh VENV_DIR}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
torch_version=2.4.1

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir)

"${pip[@]}" --no-deps "torch==$torch_version"
lib=$("$venv/bin/python" -c 'import importlib.util as u, os; print(os.path.join(u.find_spec("torch").submodule_search_locations[0], "lib"))')

"$venv/bin/python" "$here/stub_cuda.py" "$lib"

"${pip[@]}" --no-deps -r "$here/requirements.txt"

"$venv/bin/python" - <<'PY'
import gguf, numpy, peft, safetensors, tokenizers, torch, transformers
assert not torch.cuda.is_available()
torch.ones(2, 2) @ torch.ones(2, 2)
print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)
PY
