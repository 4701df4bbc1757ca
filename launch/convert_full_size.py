"""Converts a checkpoint of LatentUM-Base's size both ways and tells peak memory and seconds.

    python launch/convert_full_size.py /tmp/full_size            # zeros: takes next to no disk
    python launch/convert_full_size.py /tmp/full_size --noise    # random bfloat16: 52 GB of disk
    python launch/convert_full_size.py /tmp/full_size --stop 10  # and kills a conversion after 10 s

The checkpoint is made up: every key and shape of the published one, and no more. The folder is
made by this script, which deletes what it wrote there.
"""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from latentum_jax.config import LatentUMConfig
from latentum_jax.convert.latentum import TABLE, USAGE, published_config
from latentum_jax.files import write_json
from latentum_jax.models.folder import expected_shapes
from latentum_jax.models.stored import Lazy, safetensors_header
from latentum_jax.tokenizer import Tokenizer

PART = 2**26  # bytes of noise at a time


def main() -> None:
    """Makes the checkpoint, converts it to ours and back, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to work, not there yet")
    parser.add_argument("--noise", action="store_true", help="random weights instead of zeros")
    parser.add_argument("--stop", type=float, help="seconds until a first conversion is killed")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    try:
        published, ours, again = (args.folder / name for name in ("published", "ours", "again"))
        size = make_checkpoint(published, args.noise)
        print(f"published: {size / 1e9:.2f} GB of weights")
        if args.stop:
            run(published, ours, stop=args.stop)
            print(f"killed after {args.stop} s: {sorted(p.name for p in args.folder.iterdir())}")
        run(published, ours)
        run(ours, again)
        compare(published, again)
    finally:
        shutil.rmtree(args.folder)


def make_checkpoint(folder: Path, noise: bool) -> int:
    """A published folder of the full size in bfloat16; returns the bytes of its weights."""
    config = LatentUMConfig()
    folder.mkdir()
    write_json(folder / "config.json", published_config(config))
    Tokenizer.train(["full size"], 512).save(folder)
    shapes = expected_shapes(config)
    shapes["usage"] = (config.quantizer.num_codebooks, config.quantizer.codebook_size)
    zero = np.zeros((), ml_dtypes.bfloat16)
    empty = {path: Lazy.of(np.broadcast_to(zero, shape)) for path, shape in shapes.items()}
    usage = {"usage": empty.pop("usage")}
    tensors = TABLE.publish(empty) | USAGE.publish(usage)
    size = sum(x.nbytes for x in tensors.values())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(safetensors_header(tensors, {"format": "pt"}))
        if noise:
            fill(file, size)
        file.truncate(file.tell() if noise else file.tell() + size)
    return size


def fill(file, size: int) -> None:
    """Normal bfloat16, a few megabytes of it over and over with another sign and scale."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(PART // 2, np.float32)
    for begin in range(0, size, PART):
        part = (values * rng.normal()).astype(ml_dtypes.bfloat16).tobytes()
        file.write(part[: min(PART, size - begin)])


def run(source: Path, target: Path, stop: float | None = None) -> None:
    """One conversion in a process of its own."""
    command = [sys.executable, "-m", "latentum_jax.cli", "convert", str(source), str(target)]
    begun = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    if stop:
        time.sleep(stop)
        process.kill()
        process.wait()
        return
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{source.name} to {target.name} failed")
    seconds, peak = time.monotonic() - begun, used.ru_maxrss * 1024 / 1e9
    print(f"{source.name} to {target.name}: {seconds:.0f} s, peak {peak:.2f} GB resident")


def compare(a: Path, b: Path) -> None:
    """Every tensor of one folder is in the other, bit by bit."""
    from latentum_jax.convert.weights import open_weights

    one, other = open_weights(a), open_weights(b)
    assert set(one) == set(other), set(one) ^ set(other)
    for key, value in one.items():
        assert value.dtype == other[key].dtype, key
        assert np.array_equal(value[...].view(np.uint16), other[key][...].view(np.uint16)), key
    assert filecmp.cmp(a / "tokenizer.json", b / "tokenizer.json", shallow=False)
    files = sorted(file.name for file in b.iterdir())
    print(f"{len(one)} tensors equal bit by bit; {files}")


if __name__ == "__main__":
    main()
