"""Seconds from a StableHLO file to something that runs: girih for `host` beside XLA for the CPU, in turn, in one run.

    pip install jax
    python benches/peers/compile_time.py target/release/girih step.mlir [ROUNDS]

girih's time is that of its whole process: read, import, compile, check. XLA's is that of `compile` on the text alone, in a warm process.
"""

import statistics
import subprocess
import sys
import time

import jax
from jax._src.interpreters import mlir as jax_mlir
from jax._src.lib import xla_client
from jaxlib.mlir import ir


def xla_seconds(text):
    device = jax.devices("cpu")[0]
    start = time.perf_counter()
    with jax_mlir.make_ir_context(), ir.Location.unknown():
        module = ir.Module.parse(text)
        devices = xla_client.DeviceList((device,))
        device.client.compile_and_load(module, devices, xla_client.CompileOptions())
    return time.perf_counter() - start


def girih_seconds(girih, path):
    start = time.perf_counter()
    subprocess.run([girih, "compile", path, "-t", "host", "-o", "/dev/null", "-q"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    girih, path = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    text = open(path).read()
    xla_seconds("module { func.func public @main(%a: tensor<f32>) -> tensor<f32> { return %a : tensor<f32> } }")
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(girih_seconds(girih, path))
        theirs.append(xla_seconds(text))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{path}: girih {a:.3f} s, XLA {b:.3f} s, ratio {a / b:.4f} (medians of {rounds}; jax {jax.__version__})")


main()
