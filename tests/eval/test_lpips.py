"""LPIPS against torch's layers, of random weights in the published layouts."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latentum_jax.convert.lpips import read_lpips
from latentum_jax.eval.lpips import SCALE, SHIFT, lpips

SIDE = 64


@pytest.fixture(scope="module")
def network():
    """AlexNet's features, laid out as torchvision has them, and a weight for every channel."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for inputs, outputs in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU()]
    weights = [torch.rand(1, n, 1, 1) for n in (64, 192, 384, 256, 256)]
    return nn.Sequential(*layers), weights


def distance(network, a, b):
    """By the definition, in torch; a and b [N 3 P P] in [-1, 1]."""
    features, weights = network
    shift, scale = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (SHIFT, SCALE))
    x, y, total, taken = (a - shift) / scale, (b - shift) / scale, 0.0, 0
    for layer in features:
        x, y = layer(x), layer(y)
        if isinstance(layer, nn.ReLU):
            parts = [z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y)]
            apart = (parts[0] - parts[1]).square() * weights[taken]
            total, taken = total + apart.sum(1).mean((1, 2)), taken + 1
    return total


def test_against_torch(network, tmp_path):
    """Breaks if a kernel is turned the wrong way, a layer is pooled elsewhere or compared before
    its ReLU, or pictures are scaled otherwise."""
    features, weights = network
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    save_file(state, tmp_path / "alexnet.safetensors")
    lins = {f"lin{i}.model.1.weight": weight for i, weight in enumerate(weights)}
    save_file(lins, tmp_path / "alex.safetensors")
    params = read_lpips(tmp_path / "alexnet.safetensors", tmp_path / "alex.safetensors")
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2))
    turned = [
        torch.tensor(x.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32) for x in (a, b)
    ]
    with torch.no_grad():
        expected = distance(network, *turned).numpy()
    found = np.asarray(lpips(params, jnp.asarray(a), jnp.asarray(b)))
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    to_one = np.asarray(lpips(params, jnp.asarray(a), jnp.asarray(b[:1])))
    np.testing.assert_allclose(to_one[0], expected[0], rtol=2e-4)
    np.testing.assert_allclose(lpips(params, jnp.asarray(a), jnp.asarray(a)), 0, atol=1e-6)


def test_bad_input_is_refused_in_one_sentence(network, tmp_path):
    """Breaks if a file of another network is taken, or a pickle is read unasked."""
    save_file({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="features.0.bias"):
        read_lpips(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="--allow-pickle"):
        read_lpips(tmp_path / "alexnet.pth", tmp_path / "a.safetensors")
    small = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    with pytest.raises(ValueError, match=r"pictures are \(32, 32\), expected 63 pixels"):
        lpips({}, small, small)
