"""The six training steps that girih is compared on: their extents, initial values and batches, without any framework.

Images are NHWC, filters HWIO, dense weights [in, out]. Everything is drawn from seeded generators, so that all frameworks start alike.
"""

import numpy as np

BATCHES = 4

CASES = {
    "mlp": dict(kind="mlp", widths=(784, 512, 512, 10), batch=128, optimizer="sgd", lr=0.1),
    "cnn": dict(kind="cnn", channels=(3, 32, 64, 128), size=32, classes=10, batch=64, optimizer="momentum", lr=0.002),
    "resnet": dict(kind="resnet", widths=(64, 128, 256, 512), blocks=2, size=32, classes=10, batch=32, optimizer="momentum", lr=0.002),
    "gpt": dict(kind="gpt", layers=4, width=256, heads=4, tokens=128, vocabulary=4096, batch=8, optimizer="adamw", lr=3e-4, decay=0.1),
    "gpt2": dict(kind="gpt", layers=12, width=768, heads=12, tokens=256, vocabulary=50257, batch=2, optimizer="adamw", lr=3e-4, decay=0.1),
    "lstm": dict(kind="lstm", vocabulary=64, embedding=128, hidden=256, tokens=64, batch=32, optimizer="adamw", lr=1e-3, decay=0.0),
}
BETA1, BETA2, EPSILON, MOMENTUM = 0.9, 0.95, 1e-8, 0.9


def resnet_blocks(case):
    """Name, input width, output width and stride of every block."""
    width = case["widths"][0]
    for stage, out in enumerate(case["widths"]):
        for block in range(case["blocks"]):
            yield f"s{stage}b{block}", width, out, 2 if stage and not block else 1
            width = out


def parameters(case):
    """Initial values by name; `stats` holds the running statistics of batch normalization."""
    rng = np.random.default_rng(7)
    values, stats = {}, {}

    def uniform(name, shape, bound):
        values[name] = rng.uniform(-bound, bound, shape).astype(np.float32)

    def constant(name, shape, value):
        values[name] = np.full(shape, value, np.float32)

    def conv(name, size, inputs, outputs):
        uniform(f"{name}.w", (size, size, inputs, outputs), (6.0 / (inputs * size * size)) ** 0.5)
        constant(f"{name}.g", (outputs,), 1.0)
        constant(f"{name}.b", (outputs,), 0.0)
        stats[f"{name}.m"], stats[f"{name}.v"] = np.zeros(outputs, np.float32), np.ones(outputs, np.float32)

    kind = case["kind"]
    if kind == "mlp":
        for i, (a, b) in enumerate(zip(case["widths"], case["widths"][1:])):
            uniform(f"l{i}.w", (a, b), (6.0 / a) ** 0.5)
            constant(f"l{i}.b", (b,), 0.0)
    elif kind == "cnn":
        for i, (a, b) in enumerate(zip(case["channels"], case["channels"][1:])):
            conv(f"c{i}", 3, a, b)
        features = case["channels"][-1] * (case["size"] // 2 ** (len(case["channels"]) - 1)) ** 2
        uniform("fc.w", (features, case["classes"]), features**-0.5)
        constant("fc.b", (case["classes"],), 0.0)
    elif kind == "resnet":
        conv("stem", 3, 3, case["widths"][0])
        for name, a, b, stride in resnet_blocks(case):
            conv(f"{name}.1", 3, a, b)
            conv(f"{name}.2", 3, b, b)
            if stride > 1 or a != b:
                conv(f"{name}.s", 1, a, b)
        uniform("fc.w", (case["widths"][-1], case["classes"]), case["widths"][-1] ** -0.5)
        constant("fc.b", (case["classes"],), 0.0)
    elif kind == "gpt":
        width, bound = case["width"], 0.035
        uniform("wte", (case["vocabulary"], width), bound)
        uniform("wpe", (case["tokens"], width), bound)
        for layer in range(case["layers"]):
            for norm in ("ln1", "ln2"):
                constant(f"{layer}.{norm}.g", (width,), 1.0)
                constant(f"{layer}.{norm}.b", (width,), 0.0)
            for name, a, b in (("qkv", width, 3 * width), ("proj", width, width), ("up", width, 4 * width), ("down", 4 * width, width)):
                uniform(f"{layer}.{name}.w", (a, b), bound)
                constant(f"{layer}.{name}.b", (b,), 0.0)
        constant("ln.g", (width,), 1.0)
        constant("ln.b", (width,), 0.0)
    elif kind == "lstm":
        hidden, bound = case["hidden"], case["hidden"] ** -0.5
        uniform("embedding", (case["vocabulary"], case["embedding"]), 1.0)
        uniform("wx", (case["embedding"], 4 * hidden), bound)
        uniform("wh", (hidden, 4 * hidden), bound)
        constant("b", (4 * hidden,), 0.0)
        uniform("fc.w", (hidden, case["vocabulary"]), bound)
        constant("fc.b", (case["vocabulary"],), 0.0)
    return values, stats


def batches(case):
    """Inputs and labels of the batches, which are taken in turn."""
    rng = np.random.default_rng(11)
    out = []
    for _ in range(BATCHES):
        if case["kind"] in ("gpt", "lstm"):
            tokens = rng.integers(0, case["vocabulary"], (case["batch"], case["tokens"] + 1)).astype(np.int32)
            out.append((tokens[:, :-1].copy(), tokens[:, 1:].copy()))
            continue
        shape = (case["widths"][0],) if case["kind"] == "mlp" else (case["size"], case["size"], 3)
        classes = case["widths"][-1] if case["kind"] == "mlp" else case["classes"]
        x = rng.uniform(-1, 1, (case["batch"], *shape)).astype(np.float32)
        out.append((x, rng.integers(0, classes, case["batch"]).astype(np.int32)))
    return out


def useful_flops(case):
    """Multiply-adds of products and convolutions, times two, that a step needs: no input gradient of the first layer, dense attention."""
    batch, kind = case["batch"], case["kind"]
    if kind == "mlp":
        layers = [2 * batch * a * b for a, b in zip(case["widths"], case["widths"][1:])]
        return 3 * sum(layers) - layers[0]
    if kind == "gpt":
        tokens, width = batch * case["tokens"], case["width"]
        layer = 24 * tokens * width * width + 4 * tokens * case["tokens"] * width
        return 3 * (case["layers"] * layer + 2 * tokens * width * case["vocabulary"])
    if kind == "lstm":
        hidden = case["hidden"]
        return 6 * batch * case["tokens"] * (4 * hidden * (case["embedding"] + hidden) + hidden * case["vocabulary"])
    if kind == "cnn":
        size, layers = case["size"], []
        for a, b in zip(case["channels"], case["channels"][1:]):
            layers.append(18 * batch * size * size * a * b)
            size //= 2
        layers.append(2 * batch * case["channels"][-1] * size * size * case["classes"])
        return 3 * sum(layers) - layers[0]
    size = case["size"]
    first = 18 * batch * size * size * 3 * case["widths"][0]
    total = first + 2 * batch * case["widths"][-1] * case["classes"]
    for _, a, b, stride in resnet_blocks(case):
        size //= stride
        total += 18 * batch * size * size * (a * b + b * b) + (2 * batch * size * size * a * b if stride > 1 or a != b else 0)
    return 3 * total - first
