"""The six steps as a JAX user writes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import models


def cross_entropy(logits, labels):
    logp = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
    return -jnp.mean(jnp.take_along_axis(logp, labels[..., None], -1))


def conv_norm(p, stats, fresh, name, x, dtype, stride=1):
    pad = p[f"{name}.w"].shape[0] // 2
    dims = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, p[f"{name}.w"].astype(dtype), (stride, stride), [(pad, pad)] * 2, dimension_numbers=dims)
    y = y.astype(jnp.float32)
    mean = y.mean((0, 1, 2))
    var = jnp.square(y).mean((0, 1, 2)) - jnp.square(mean)
    fresh[f"{name}.m"] = 0.9 * stats[f"{name}.m"] + 0.1 * mean
    fresh[f"{name}.v"] = 0.9 * stats[f"{name}.v"] + 0.1 * var
    scale = p[f"{name}.g"] * lax.rsqrt(var + 1e-5)
    return (y * scale + (p[f"{name}.b"] - mean * scale)).astype(dtype)


def cnn(case, dtype, p, stats, x, labels):
    fresh, h = {}, x.astype(dtype)
    for i in range(len(case["channels"]) - 1):
        h = jax.nn.relu(conv_norm(p, stats, fresh, f"c{i}", h, dtype))
        h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    h = h.reshape(h.shape[0], -1)
    return cross_entropy(h @ p["fc.w"].astype(dtype) + p["fc.b"].astype(dtype), labels), fresh


def resnet(case, dtype, p, stats, x, labels):
    fresh = {}
    norm = functools.partial(conv_norm, p, stats, fresh)
    h = jax.nn.relu(norm("stem", x.astype(dtype), dtype))
    for name, _, _, stride in models.resnet_blocks(case):
        y = jax.nn.relu(norm(f"{name}.1", h, dtype, stride))
        y = norm(f"{name}.2", y, dtype)
        if f"{name}.s.w" in p:
            h = norm(f"{name}.s", h, dtype, stride)
        h = jax.nn.relu(h + y)
    h = h.mean((1, 2))
    return cross_entropy(h @ p["fc.w"].astype(dtype) + p["fc.b"].astype(dtype), labels), fresh


def mlp(case, dtype, p, stats, x, labels):
    h = x.astype(dtype)
    for i in range(len(case["widths"]) - 1):
        h = (jax.nn.relu(h) if i else h) @ p[f"l{i}.w"].astype(dtype) + p[f"l{i}.b"].astype(dtype)
    return cross_entropy(h, labels), stats


def gpt(case, dtype, p, stats, x, labels):
    heads, width, tokens = case["heads"], case["width"], case["tokens"]
    mask = np.tril(np.ones((tokens, tokens), bool))

    def norm(x, name):
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        var = jnp.square(x - mean).mean(-1, keepdims=True)
        return ((x - mean) * lax.rsqrt(var + 1e-5) * p[f"{name}.g"] + p[f"{name}.b"]).astype(dtype)

    def dense(x, name):
        return x @ p[f"{name}.w"].astype(dtype) + p[f"{name}.b"].astype(dtype)

    h = (p["wte"][x] + p["wpe"]).astype(dtype)
    for i in range(case["layers"]):
        q, k, v = jnp.split(dense(norm(h, f"{i}.ln1"), f"{i}.qkv"), 3, -1)
        q, k, v = (t.reshape(-1, tokens, heads, width // heads).transpose(0, 2, 1, 3) for t in (q, k, v))
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k).astype(jnp.float32) * (width // heads) ** -0.5
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), -1).astype(dtype)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v).transpose(0, 2, 1, 3).reshape(h.shape)
        h = h + dense(mixed, f"{i}.proj")
        h = h + dense(jax.nn.gelu(dense(norm(h, f"{i}.ln2"), f"{i}.up"), approximate=True), f"{i}.down")
    return cross_entropy(norm(h, "ln") @ p["wte"].astype(dtype).T, labels), stats


def lstm(case, dtype, p, stats, x, labels):
    inputs = (p["embedding"][x] @ p["wx"] + p["b"]).transpose(1, 0, 2)
    zero = jnp.zeros((x.shape[0], case["hidden"]))

    def cell(carry, gates):
        h, c = carry
        i, f, g, o = jnp.split(gates + h @ p["wh"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    _, hs = lax.scan(cell, (zero, zero), inputs)
    return cross_entropy(hs.transpose(1, 0, 2) @ p["fc.w"] + p["fc.b"], labels), stats


def make(case, dtype="float32"):
    """The step, its state and its batches. The state is (parameters, optimizer, statistics); the step returns it anew with the loss."""
    forward = functools.partial(globals()[case["kind"]], case, jnp.dtype(dtype))
    p, stats = models.parameters(case)
    zeros = {k: np.zeros_like(v) for k, v in p.items()}
    slots = {"sgd": {}, "momentum": dict(m=zeros)}.get(case["optimizer"], dict(m=zeros, v=dict(zeros), t=np.float32(0)))
    lr, tree = case["lr"], jax.tree.map

    def step(p, slots, stats, x, labels):
        (loss, stats), grads = jax.value_and_grad(forward, has_aux=True)(p, stats, x, labels)
        if case["optimizer"] == "sgd":
            return tree(lambda p, g: p - lr * g, p, grads), slots, stats, loss
        if case["optimizer"] == "momentum":
            m = tree(lambda m, g: models.MOMENTUM * m + g, slots["m"], grads)
            return tree(lambda p, m: p - lr * m, p, m), dict(m=m), stats, loss
        t = slots["t"] + 1
        m = tree(lambda m, g: models.BETA1 * m + (1 - models.BETA1) * g, slots["m"], grads)
        v = tree(lambda v, g: models.BETA2 * v + (1 - models.BETA2) * g * g, slots["v"], grads)
        a, b = 1 / (1 - models.BETA1**t), 1 / (1 - models.BETA2**t)
        new = tree(lambda p, m, v: p - lr * (a * m / (jnp.sqrt(b * v) + models.EPSILON) + case["decay"] * p), p, m, v)
        return new, dict(m=m, v=v, t=t), stats, loss

    return step, (p, slots, stats), models.batches(case)
