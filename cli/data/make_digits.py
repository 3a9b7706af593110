#!/usr/bin/env python3
"""Makes the files of this folder: `digits.safetensors` and `digits_cnn.onnx`.

    pip install numpy safetensors scikit-learn torch onnx onnxscript
    python make_digits.py            # writes both files here, then trains the model with PyTorch as a check

The data is the test split of the UCI "Optical Recognition of Handwritten Digits", which scikit-learn bundles.
The rows are shuffled once with a fixed seed and stored in that order, so the held-out fifth is simply the last 360 rows.
The model is an ordinary PyTorch module with PyTorch's default initialization, exported the way users do.
"""

import argparse
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SHUFFLE_SEED = 20260718
INIT_SEED = 7
HELD_OUT = 360


def make_data(path):
    from safetensors.numpy import save_file
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.Generator(np.random.PCG64(SHUFFLE_SEED)).permutation(len(digits.target))
    images = digits.images[order].astype(np.uint8)
    labels = digits.target[order].astype(np.uint8)
    assert images.shape == (1797, 8, 8) and images.max() == 16 and (images == digits.images[order]).all()
    metadata = {
        "source": "UCI Machine Learning Repository, Optical Recognition of Handwritten Digits, test split",
        "authors": "E. Alpaydin, C. Kaynak",
        "license": "CC BY 4.0",
        "held_out": f"the last {HELD_OUT} rows",
    }
    save_file({"images": np.ascontiguousarray(images), "labels": labels}, path, metadata)


def make_net():
    import torch
    from torch import nn

    class DigitsCnn(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
            self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
            self.fc1 = nn.Linear(32 * 4 * 4, 128)
            self.fc2 = nn.Linear(128, 10)

        def forward(self, x):
            x = torch.relu(self.conv1(x))
            x = torch.relu(self.conv2(x))
            x = nn.functional.max_pool2d(x, 2)
            x = torch.flatten(x, 1)
            return self.fc2(torch.relu(self.fc1(x)))

    torch.manual_seed(INIT_SEED)
    return DigitsCnn()


def make_model(path):
    import torch

    program = torch.onnx.export(
        make_net(),
        (torch.zeros(2, 1, 8, 8),),
        input_names=["x"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        dynamo=True,
        optimize=False,
    )
    # Export records where in the Python source each node came from, with this machine's paths; the file is shipped without them.
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in list(model.graph.input) + list(model.graph.output) + list(model.graph.value_info) + list(model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def check_model(data_path, model_path, epochs, lr, batch, runs):
    import torch
    from safetensors.numpy import load_file

    data = load_file(data_path)
    x = torch.from_numpy(data["images"].astype(np.float32) / 16.0).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(data["labels"].astype(np.int64))
    split = len(y) - HELD_OUT
    print(f"{model_path.name}: {model_path.stat().st_size} bytes; {data_path.name}: {data_path.stat().st_size} bytes")
    for run in range(runs):
        net = make_net()
        optimizer = torch.optim.Adam(net.parameters(), lr=lr)
        order = torch.Generator().manual_seed(run)
        history = []
        for _ in range(epochs):
            rows = torch.randperm(split, generator=order) if run else torch.arange(split)
            # Every step has a full batch, as a compiled program has: the rows that do not fill one are left out.
            for start in range(0, split - batch + 1, batch):
                at = rows[start : start + batch]
                loss = torch.nn.functional.cross_entropy(net(x[at]), y[at])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                history.append((net(x[split:]).argmax(1) == y[split:]).float().mean().item() * 100)
        what = "file order" if run == 0 else f"shuffle {run}"
        print(f"  {what}: test accuracy by epoch " + " ".join(f"{a:.2f}" for a in history) + f"; last loss {loss.item():.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check-only", action="store_true", help="keep the files, only train")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    data, model = HERE / "digits.safetensors", HERE / "digits_cnn.onnx"
    if not args.check_only:
        make_data(data)
        make_model(model)
    check_model(data, model, args.epochs, args.lr, args.batch, args.runs)


if __name__ == "__main__":
    main()
