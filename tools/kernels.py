#!/usr/bin/env python3
"""Builds build/libchorale_kernels.so from kernels/.

The compiler is the nvcc on the path, or one from PyPI's wheels in a virtual
environment under .cache. Objects are kept under .cache by a hash of the source,
what it includes, the compiler and its options, so only what changed is built.

    tools/kernels.py [--out FILE]         KERNEL_ARCH=90a builds for one chip
"""
import argparse, concurrent.futures, hashlib, os, pathlib, re, shutil, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "kernels"
KERNELS = ROOT / "kernels"
# One version for all: a compiler does not read another one's headers.
WHEELS = ["nvidia-cuda-nvcc==13.0.*", "nvidia-cuda-runtime==13.0.*", "nvidia-cuda-crt==13.0.*",
          "nvidia-nvvm==13.0.*", "nvidia-cuda-cccl==13.0.*"]
ARCHES = "90a,80,86,89,ptx"


def compiler():
    """The nvcc to use, and the folder of its libraries when it comes from wheels."""
    if found := shutil.which("nvcc"):
        return [found], None
    venv = CACHE / "venv"
    stamp = venv / "wheels.txt"
    if not stamp.exists() or stamp.read_text() != "\n".join(WHEELS):
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *WHEELS], check=True)
        stamp.write_text("\n".join(WHEELS))
    home = next(venv.glob("lib/python*/site-packages/nvidia/cu13"))
    return [str(home / "bin" / "nvcc")], home


def targets():
    out = []
    for arch in os.environ.get("KERNEL_ARCH", ARCHES).split(","):
        if arch == "ptx":
            out.append("-gencode=arch=compute_90,code=compute_90")
        else:
            out.append(f"-gencode=arch=compute_{arch},code=sm_{arch}")
    return out


def includes(path, folders, seen):
    """All files of ours that path includes."""
    if path in seen:
        return
    seen.add(path)
    for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.M):
        for folder in [path.parent, *folders]:
            if (folder / name).exists():
                includes((folder / name).resolve(), folders, seen)
                break


def digest(source, folders, command):
    files = set()
    includes(source, folders, files)
    h = hashlib.sha256("\0".join(command).encode())
    for f in sorted(files):
        h.update(f.name.encode() + b"\0" + f.read_bytes())
    return h.hexdigest()[:32]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "libchorale_kernels.so")
    args = args.parse_args()
    nvcc, home = compiler()
    version = subprocess.run([*nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    folders = [KERNELS / "include", KERNELS / "device", KERNELS / "abi"]
    flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden", *targets()]
    paths = [f"-I{f}" for f in folders]
    objects = CACHE / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    jobs = []
    for source in sorted((KERNELS / "abi").glob("*.cu")):
        obj = objects / f"{source.stem}-{digest(source, folders, [version, *flags])}.o"
        jobs.append((source, obj))

    def build(job):
        source, obj = job
        if not obj.exists():
            print(f"nvcc {source.relative_to(ROOT)}", flush=True)
            part = obj.with_suffix(".part.o")
            subprocess.run([*nvcc, *flags, *paths, "-c", str(source), "-o", str(part)], check=True)
            part.rename(obj)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build, jobs))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    part = args.out.with_suffix(".part")
    link = [*nvcc, "-shared", "-cudart=static", "-Xlinker=--exclude-libs,ALL", "-o", str(part), *[str(o) for _, o in jobs], "-ldl", "-lpthread", "-lrt"]
    if home:
        link.append(f"-L{home / 'lib'}")
    subprocess.run(link, check=True)
    part.rename(args.out)
    keep = {o for _, o in jobs}
    for old in sorted(objects.glob("*.o"), key=lambda p: p.stat().st_mtime)[:-64]:
        if old not in keep:
            old.unlink()
    print(f"{args.out.relative_to(ROOT) if args.out.is_relative_to(ROOT) else args.out}: {args.out.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(f"kernels: {' '.join(map(str, e.cmd[:1]))} failed with {e.returncode}")
