"""oneDNN's times, through torch, for the convolutions that `kernels/examples/convs.rs` times: one thread, channels last, f32 or bf16.

    python benches/peers/conv.py [cnn|resnet] [--bf16]
"""
import sys
import time

import torch

STEPS = {
    "cnn": [(1, 64, 3, 32, 32, 3, 1), (1, 64, 32, 64, 16, 3, 1), (1, 64, 64, 128, 8, 3, 1)],
    "resnet": [
        (1, 32, 3, 64, 32, 3, 1),
        (4, 32, 64, 64, 32, 3, 1),
        (1, 32, 64, 128, 32, 3, 2),
        (1, 32, 64, 128, 32, 1, 2),
        (3, 32, 128, 128, 16, 3, 1),
        (1, 32, 128, 256, 16, 3, 2),
        (1, 32, 128, 256, 16, 1, 2),
        (3, 32, 256, 256, 8, 3, 1),
        (1, 32, 256, 512, 8, 3, 2),
        (1, 32, 256, 512, 8, 1, 2),
        (3, 32, 512, 512, 4, 3, 1),
    ],
}


def best(call, budget=0.3):
    for _ in range(3):
        call()
    begin, low = time.perf_counter(), float("inf")
    while time.perf_counter() - begin < budget:
        start = time.perf_counter()
        call()
        low = min(low, time.perf_counter() - start)
    return low


def main():
    torch.set_num_threads(1)
    names = [a for a in sys.argv[1:] if not a.startswith("--")] or list(STEPS)
    dtype = torch.bfloat16 if "--bf16" in sys.argv else torch.float32
    for step in names:
        totals, work = [0.0, 0.0, 0.0], 0.0
        for times, n, ci, co, size, k, s in STEPS[step]:
            last = torch.channels_last
            x = torch.randn(n, ci, size, size).to(dtype).to(memory_format=last)
            w = torch.randn(co, ci, k, k).to(dtype).to(memory_format=last)
            pad = (k - 1) // 2
            y = torch.nn.functional.conv2d(x, w, stride=s, padding=pad)
            g = torch.randn_like(y).to(memory_format=last)
            flops = 2.0 * y.numel() * ci * k * k
            args = (g, x, w, [0], [s, s], [pad, pad], [1, 1], False, [0, 0], 1)
            calls = [
                lambda: torch.nn.functional.conv2d(x, w, stride=s, padding=pad),
                lambda: torch.ops.aten.convolution_backward(*args, [True, False, False]),
                lambda: torch.ops.aten.convolution_backward(*args, [False, True, False]),
            ]
            line = f"{times}x {ci:>3}->{co:<3} {size}x{size} k{k} s{s} n{n}".ljust(28)
            with torch.no_grad():
                for i, call in enumerate(calls):
                    if i == 1 and ci == 3:
                        line += " " + "-".rjust(19)
                        continue
                    seconds = best(call)
                    line += f" {seconds * 1e3:11.3f} {flops / seconds / 1e9:7.1f}"
                    totals[i] += seconds * 1e3 * times
                    work += flops * times
            print(line, flush=True)
        total = sum(totals)
        f, i, k = totals
        print(f"{step}: {total:.1f} ms a step (forward {f:.1f}, input {i:.1f}, kernel {k:.1f}), {work / 1e9:.2f} GFLOP, {work / total / 1e6:.0f} GFLOP/s")


main()
