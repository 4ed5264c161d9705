"""Writes stand-ins for the CUDA libraries that a torch wheel links against.

    stub_cuda.py TORCH_LIB_DIR

For every CUDA soname that the libraries of TORCH_LIB_DIR need and the folder
lacks, a shared library is compiled into it whose functions all return 100
(cudaErrorNoDevice): torch then imports, reports no GPU, and computes on the CPU.
Functions carry the symbol version their users ask for, as ld.so checks it.
"""

import collections
import glob
import os
import re
import subprocess
import sys
import tempfile

CUDA_SONAME = re.compile(r"^lib(cu|nccl|nv)")
CUDA_SYMBOL = re.compile(r"^_?(cu|nccl|nv)[A-Za-z0-9_]+$")


def readelf(flag, path):
    return subprocess.run(["readelf", "-W", flag, path], check=True, capture_output=True, text=True).stdout.splitlines()


def wanted(folder):
    """Returns the missing sonames, {soname: symbols} with a version, and symbols without one."""
    missing, versioned, plain = set(), collections.defaultdict(set), set()
    for path in sorted(glob.glob(os.path.join(folder, "*.so*"))):
        for line in readelf("-d", path):
            name = re.search(r"\(NEEDED\).*\[(.*)\]", line)
            if name and CUDA_SONAME.match(name[1]) and not os.path.exists(os.path.join(folder, name[1])):
                missing.add(name[1])
        for line in readelf("--dyn-syms", path):
            field = line.split()
            if len(field) < 8 or field[6] != "UND":
                continue
            symbol, _, version = field[7].partition("@")
            if CUDA_SONAME.match(version):
                versioned[version].add(symbol)
            elif not version and CUDA_SYMBOL.match(symbol):
                plain.add(symbol)
    return missing, versioned, plain


def compile_stub(folder, soname, symbols, versions):
    with tempfile.TemporaryDirectory() as tmp:
        source, script = os.path.join(tmp, "stub.c"), os.path.join(tmp, "stub.map")
        with open(source, "w") as f:
            f.writelines(f"int {s}(void) {{ return 100; }}\n" for s in sorted(symbols))
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", os.path.join(folder, soname), source]
        if versions:
            with open(script, "w") as f:
                f.writelines(f"{v} {{ global: {' '.join(s + ';' for s in sorted(names))} }};\n" for v, names in versions.items())
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def main():
    folder = sys.argv[1]
    missing, versioned, plain = wanted(folder)
    for soname in sorted(missing):
        if soname in versioned:
            names = versioned.pop(soname)
            compile_stub(folder, soname, names, {soname: names})
        else:
            # Symbols without a version are found in whichever of these is loaded, so each holds all.
            compile_stub(folder, soname, plain, {})
    print("stubs:", " ".join(sorted(missing)) or "already there")


if __name__ == "__main__":
    main()
