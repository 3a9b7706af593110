"""Matrix products: girih's kernels beside oneDNN (torch), OpenBLAS (numpy) and the crates `gemm` and `faer`, in turn, in one run.

    pip install torch numpy
    cargo build --release --manifest-path benches/peers/gemm-crates/Cargo.toml
    python benches/peers/gemm.py benches/peers/gemm-crates/target/release/gemm-crates [--threads N] [--dtype f32|bf16] [--rounds R] [SHAPE ...]

A shape is `512x768x3072:nt` (m x k x n) or `96*256x64x256:nt` (a batch). Every library gets each shape in turn, the rounds go around, and
each keeps its fastest call. The last column is girih's time over that of its best rival: below 1 is faster.
"""

import argparse
import os
import subprocess
import sys
import time

SHAPES = """64x64x64:nn 128x128x128:nn 256x256x256:nn 256x256x256:nt 256x256x256:tn 512x512x512:nn 512x512x512:nt 512x512x512:tn
1024x1024x1024:nn 2048x2048x2048:nn 512x768x768:nn 512x768x768:nt 512x768x768:tn 512x768x3072:nn 512x768x3072:nt 512x768x3072:tn
512x3072x768:nn 512x3072x768:nt 512x3072x768:tn 768x512x3072:tn 1024x256x1024:nn 96*256x64x256:nt 96*256x256x64:nn 96*256x256x64:tn 32x256x1024:nn 32x1024x256:nn
32x1024x256:nt 128x784x512:nn 128x512x10:nn 128x10x512:nt 784x128x512:tn 512x128x10:tn 256x32x1024:tn 256x32x256:nn""".split()


def parse(text):
    extents, _, transposed = text.partition(":")
    batch, _, rest = extents.rpartition("*")
    m, k, n = (int(x) for x in rest.split("x"))
    return int(batch or 1), m, k, n, transposed or "nn"


def fastest(call, seconds):
    call()
    start = time.perf_counter()
    call()
    group = max(1, min(1000, int(2e-5 / max(time.perf_counter() - start, 1e-9)) + 1))
    begin, best = time.perf_counter(), float("inf")
    while time.perf_counter() - begin < seconds or best == float("inf"):
        start = time.perf_counter()
        for _ in range(group):
            call()
        best = min(best, (time.perf_counter() - start) / group)
    return best


def torch_seconds(shape, dtype, seconds):
    import torch

    batch, m, k, n, transposed = shape
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    operand = lambda rows, cols, t: torch.randn(batch, cols, rows).to(kind).transpose(1, 2) if t else torch.randn(batch, rows, cols).to(kind)
    a, b = operand(m, k, transposed[0] == "t"), operand(k, n, transposed[1] == "t")
    out = torch.empty(batch, m, n, dtype=kind)
    if batch == 1:
        a, b, out = a[0], b[0], out[0]
    with torch.no_grad():
        return fastest(lambda: torch.matmul(a, b, out=out), seconds)


def numpy_seconds(shape, dtype, seconds):
    import numpy as np

    if dtype != "f32":
        return float("nan")
    batch, m, k, n, transposed = shape
    rng = np.random.default_rng(0)
    dense = lambda *dims: rng.standard_normal(dims, dtype=np.float32)
    operand = lambda rows, cols, t: dense(batch, cols, rows).transpose(0, 2, 1) if t else dense(batch, rows, cols)
    a, b = operand(m, k, transposed[0] == "t"), operand(k, n, transposed[1] == "t")
    out = np.empty((batch, m, n), dtype=np.float32)
    if batch == 1:
        a, b, out = a[0], b[0], out[0]
    return fastest(lambda: np.matmul(a, b, out=out), seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--milliseconds", type=int, default=100, help="of a library and a round")
    args = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != str(args.threads):
        # Both libraries read these when they are loaded.
        limits = {name: str(args.threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **limits})
    import torch

    torch.set_num_threads(args.threads)
    rust = subprocess.Popen([args.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(*words):
        rust.stdin.write(" ".join(str(w) for w in words) + "\n")
        rust.stdin.flush()
        return float(rust.stdout.readline())

    def crate(name):
        def seconds(shape, dtype, _):
            batch, m, k, n, transposed = shape
            return ask(name, dtype, transposed, batch, m, k, n, args.threads, args.milliseconds)

        return seconds

    libraries = {"girih": crate("girih"), "torch": torch_seconds, "numpy": numpy_seconds, "gemm": crate("gemm"), "faer": crate("faer")}
    peak = 0.0
    print(f"{'GFLOP/s':24}" + "".join(f"{name:>9}" for name in libraries) + f"{'peak':>9}{'of peak':>9}{'ratio':>7}")
    for text in args.shapes or SHAPES:
        shape = parse(text)
        best = dict.fromkeys(libraries, float("inf"))
        for _ in range(args.rounds):
            peak = max(peak, ask("peak", args.dtype, args.threads))
            for name, seconds in libraries.items():
                if args.threads > 1:
                    time.sleep(0.2)  # The threads of the library before may still be spinning on the cores.
                took = seconds(shape, args.dtype, args.milliseconds / 1e3)
                if took == took:
                    best[name] = min(best[name], took)
        flops = 2 * shape[0] * shape[1] * shape[2] * shape[3]
        rates = "".join(f"{flops / t / 1e9:9.1f}" if t < float("inf") else f"{'-':>9}" for t in best.values())
        rival = min(t for name, t in best.items() if name != "girih")
        share = flops / best["girih"] / peak
        print(f"{text:24}{rates}{peak / 1e9:9.1f}{100 * share:8.1f}%{best['girih'] / rival:7.2f}", flush=True)


main()
