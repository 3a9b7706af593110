"""The six steps as a PyTorch user writes them: functional modules, fused optimizers, channels-last images, autocast for bfloat16."""

import torch
import torch.nn.functional as F

import models


def parameter(value):
    t = torch.from_numpy(value.copy())
    if t.ndim == 4:
        t = t.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return t.requires_grad_()


def conv_norm(p, stats, name, x, stride=1):
    w = p[f"{name}.w"]
    y = F.conv2d(x, w, stride=stride, padding=w.shape[2] // 2)
    return F.batch_norm(y, stats[f"{name}.m"], stats[f"{name}.v"], p[f"{name}.g"], p[f"{name}.b"], training=True, eps=1e-5)


def cnn(case, p, stats, x):
    for i in range(len(case["channels"]) - 1):
        x = F.max_pool2d(F.relu(conv_norm(p, stats, f"c{i}", x)), 2)
    # The weights of the last layer are in the order rows, columns, channels.
    return x.permute(0, 2, 3, 1).flatten(1) @ p["fc.w"] + p["fc.b"]


def resnet(case, p, stats, x):
    x = F.relu(conv_norm(p, stats, "stem", x))
    for name, _, _, stride in models.resnet_blocks(case):
        y = F.relu(conv_norm(p, stats, f"{name}.1", x, stride))
        y = conv_norm(p, stats, f"{name}.2", y)
        if f"{name}.s.w" in p:
            x = conv_norm(p, stats, f"{name}.s", x, stride)
        x = F.relu(x + y)
    return x.mean((2, 3)) @ p["fc.w"] + p["fc.b"]


def mlp(case, p, stats, x):
    for i in range(len(case["widths"]) - 1):
        x = (F.relu(x) if i else x) @ p[f"l{i}.w"] + p[f"l{i}.b"]
    return x


def gpt(case, p, stats, x):
    heads, width, tokens = case["heads"], case["width"], case["tokens"]

    def norm(h, name):
        return F.layer_norm(h, (width,), p[f"{name}.g"], p[f"{name}.b"], 1e-5)

    def dense(h, name):
        return torch.addmm(p[f"{name}.b"], h.reshape(-1, h.shape[-1]), p[f"{name}.w"]).view(*h.shape[:-1], -1)

    h = p["wte"][x] + p["wpe"]
    for i in range(case["layers"]):
        q, k, v = dense(norm(h, f"{i}.ln1"), f"{i}.qkv").view(-1, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(h.shape)
        h = h + dense(mixed, f"{i}.proj")
        h = h + dense(F.gelu(dense(norm(h, f"{i}.ln2"), f"{i}.up"), approximate="tanh"), f"{i}.down")
    return F.linear(norm(h, "ln"), p["wte"])


class Lstm:
    """`nn.LSTM` with the given weights; its second bias stays zero."""

    def __init__(self, case, p):
        self.cell = torch.nn.LSTM(case["embedding"], case["hidden"], batch_first=True)
        with torch.no_grad():
            for name, value in (("weight_ih_l0", p["wx"].T), ("weight_hh_l0", p["wh"].T), ("bias_ih_l0", p["b"]), ("bias_hh_l0", 0 * p["b"])):
                getattr(self.cell, name).copy_(value)
        self.cell.bias_hh_l0.requires_grad_(False)

    def __call__(self, case, p, stats, x):
        return self.cell(p["embedding"][x])[0] @ p["fc.w"] + p["fc.b"]


def make(case, compiled=False, dtype="float32"):
    """A function from a batch to the loss that trains, and the batches."""
    values, stats = models.parameters(case)
    p = {k: parameter(v) for k, v in values.items()}
    stats = {k: torch.from_numpy(v.copy()) for k, v in stats.items()}
    forward, trained = globals().get(case["kind"]), list(p.values())
    if case["kind"] == "lstm":
        forward = Lstm(case, p)
        trained = [p[k] for k in ("embedding", "fc.w", "fc.b")] + [w for w in forward.cell.parameters() if w.requires_grad]
    if case["optimizer"] == "adamw":
        betas = (models.BETA1, models.BETA2)
        optimizer = torch.optim.AdamW(trained, case["lr"], betas, models.EPSILON, case["decay"], fused=True)
    else:
        optimizer = torch.optim.SGD(trained, case["lr"], models.MOMENTUM if case["optimizer"] == "momentum" else 0.0, fused=True)

    def loss_of(x, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = forward(case, p, stats, x)
        return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten())

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step(x, labels):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def batch(x, labels):
        x = torch.from_numpy(x)
        if x.ndim == 4:
            x = x.permute(0, 3, 1, 2)
        return x, torch.from_numpy(labels).long()

    return step, [batch(x, labels) for x, labels in models.batches(case)]
