"""Every case of a corpus on one die and on a mesh of dies, both executed by the same cores.

    python benches/corpus.py GIRIH CASE_FOLDER... [--target dojo-tile] [--threads 2] [--seconds 1]

Prints a Markdown table: the time of a step on `host` and on the target, their ratio, and what compiling took. A case folder is what `girih bench` takes.
"""
import argparse, json, os, subprocess


def bench(girih, folder, target, options):
    command = [girih, "bench", folder, "-t", target, "--threads", str(options.threads), "--seconds", str(options.seconds), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("girih")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--target", default="dojo-tile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    print(f"| case | host: ms a step | GFLOP/s | compile ms | {options.target}: dies | ms a step | compile ms | mesh / host |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in options.folders:
        name = os.path.basename(folder.rstrip("/"))
        host, mesh = (bench(options.girih, folder, t, options) for t in ("host", options.target))
        if host is None or mesh is None:
            print(f"| {name} | failed | | | | | | |")
            continue
        row = [name, f"{host['median_ms']:.3f}", f"{host['gflops']:.1f}", f"{host['compile_ms']:.0f}", str(mesh["dies_used"])]
        row += [f"{mesh['median_ms']:.3f}", f"{mesh['compile_ms']:.0f}", f"{mesh['median_ms'] / host['median_ms']:.1f}"]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
