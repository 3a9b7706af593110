"""girih and its peers on six training steps, in turn, in fresh processes, in one run.

    pip install jax torch safetensors
    python benches/peers/train_steps.py target/release/girih [--cases mlp gpt …] [--threads 1 2] [--rounds 3] [--seconds 4] [--dtype bfloat16]

Each round runs girih, then every peer; a ratio is girih's median step over that of the fastest peer of the same round, and the median of the
rounds is printed. The losses of the first eight steps must agree. The steps are lowered by JAX and kept under `target/peers`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = ["torch", "torch-compile", "jax"]
WARMUP = 8


def lower(name, dtype, folder):
    """Writes the step as a case folder, unless it is there."""
    if os.path.exists(os.path.join(folder, "case.json")):
        return
    import jax
    import jax_step
    import models
    import numpy as np
    from safetensors.numpy import save_file

    case = models.CASES[name]
    step, state, batches = jax_step.make(case, dtype)
    lowered = jax.jit(step, donate_argnums=(0, 1, 2), keep_unused=True).lower(*state, *batches[0])
    key = jax.tree_util.keystr
    ins = [("state" + key(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
    ports = ins + [("batch/x", batches[0][0]), ("batch/y", batches[0][1])]
    outputs = [dict(name=n, feeds_input=i) for i, (n, _) in enumerate(ins)] + [dict(name="loss")]
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "train_step.mlir"), "w") as f:
        f.write(lowered.as_text())
    save_file({n: np.ascontiguousarray(v) for n, v in ports}, os.path.join(folder, "inputs.safetensors"))
    files = {f"{i}/batch/{k}": v for i, (x, y) in enumerate(batches) for k, v in (("x", x), ("y", y))}
    save_file(files, os.path.join(folder, "batches.safetensors"))
    inputs = [dict(name=n, shape=list(np.shape(v))) for n, v in ports]
    manifest = dict(inputs=inputs, outputs=outputs, num_batches=len(batches), useful_flops_per_step=models.useful_flops(case))
    with open(os.path.join(folder, "case.json"), "w") as f:
        json.dump(manifest, f, indent=1)


def peer(kind, name, dtype, threads, seconds):
    """Runs in a process of its own; prints one line of JSON."""
    import models

    case, start = models.CASES[name], time.perf_counter()
    if kind == "jax":
        import jax
        import jax_step

        step, state, batches = jax_step.make(case, dtype)
        compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state, *batches[0]).compile()
        compile_ms = (time.perf_counter() - start) * 1e3
        state = jax.device_put(state)

        def run(k):
            nonlocal state
            *state, loss = compiled(*state, *batches[k % len(batches)])
            jax.block_until_ready(state)
            return float(loss)
    else:
        import torch
        import torch_step

        torch.set_num_threads(threads)
        step, batches = torch_step.make(case, kind == "torch-compile", dtype)
        compile_ms = None

        def run(k):
            return step(*batches[k % len(batches)])

    losses, times, count = [], [], 0
    begin = None
    while len(times) < 7 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        loss = run(count)
        if count >= WARMUP:
            begin = begin or start
            times.append((time.perf_counter() - start) * 1e3)
        else:
            losses.append(loss)
        count += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(dict(median_ms=statistics.median(times), losses=losses, compile_ms=compile_ms, peak_rss_bytes=peak)))


def measure(command, threads):
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    if done.returncode:
        return dict(error=(done.stderr or done.stdout).strip()[-200:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def row(name, threads, options):
    folder = os.path.join(os.path.abspath(options.steps), f"{name}-{options.dtype}")
    lower(name, options.dtype, folder)
    girih = [os.path.abspath(options.girih), "bench", folder, "--threads", str(threads), "--seconds", str(options.seconds), "--format", "json"]
    results, ratios = {n: [] for n in ["girih", *PEERS]}, []
    for _ in range(options.rounds):
        results["girih"].append(measure(girih, threads))
        for kind in PEERS:
            command = [sys.executable, __file__, "--peer", kind, name, options.dtype, str(threads), str(options.seconds)]
            results[kind].append(measure(command, threads))
        last = {n: r[-1] for n, r in results.items()}
        best = [last[p]["median_ms"] for p in PEERS if "error" not in last[p]]
        if "error" not in last["girih"] and best:
            ratios.append(last["girih"]["median_ms"] / min(best))
    good = {n: [r for r in rs if "error" not in r] for n, rs in results.items()}
    if not ratios:
        errors = [r["error"] for rs in results.values() for r in rs if "error" in r]
        print(f"| {name} | {threads} | failed: {errors[0].splitlines()[-1] if errors else 'no peer'} |")
        return None
    cells = [f"{statistics.median(r['median_ms'] for r in good[n]):.2f}" if good[n] else "-" for n in ["girih", *PEERS]]
    reference = next(good[p][0] for p in ("jax", "torch") if good[p])
    off = max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(good["girih"][0]["losses"], reference["losses"]))
    agree = "agree" if off <= (2e-2 if options.dtype == "bfloat16" else 2e-4) else f"differ by {off:.1e}"
    peak = " / ".join(f"{good[n][0]['peak_rss_bytes'] >> 20}" if good[n] else "-" for n in ("girih", "jax"))
    compiled = " / ".join(f"{statistics.median(r['compile_ms'] for r in good[n]):.0f}" if good[n] else "-" for n in ("girih", "jax"))
    ratio = statistics.median(ratios)
    print(f"| {name} | {threads} | {' | '.join(cells)} | {ratio:.2f} | {compiled} | {peak} | {agree} |", flush=True)
    return ratio


def main():
    if sys.argv[1:2] == ["--peer"]:
        kind, name, dtype, threads, seconds = sys.argv[2:]
        return peer(kind, name, dtype, int(threads), float(seconds))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("girih")
    parser.add_argument("--cases", nargs="*", default=["mlp", "cnn", "resnet", "gpt", "gpt2", "lstm"])
    parser.add_argument("--threads", nargs="*", type=int, default=[2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", default="target/peers")
    options = parser.parse_args()
    print(f"| case | threads | girih ms | {' | '.join(p + ' ms' for p in PEERS)} | girih / best peer | compile ms (girih / jax) | peak MiB (girih / jax) | losses |")
    print("|" + "---|" * (8 + len(PEERS)))
    ratios = [r for name in options.cases for t in options.threads if (r := row(name, t, options))]
    if ratios:
        print(f"\ngeometric mean of girih / best peer: {statistics.geometric_mean(ratios):.3f}")


if __name__ == "__main__":
    main()
