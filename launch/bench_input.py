"""Can the input pipeline keep up with the decoding of its pictures? Rates of both, and the ratio.

    python launch/bench_input.py              # as many threads as there are cores
    python launch/bench_input.py --threads 4 --rows 16 --batches 8 --rounds 15

Texts and JPEGs are made up and put into tar shards. `decode` is `see` on their bytes, which lie in
memory, in a pool of threads: no pipeline on this machine can be faster. `pipeline` is what training
does (`mome_pretrain`): samples picked from shards, decoded, their texts turned into tokens, rows
padded and stacked into batches in as many threads; 128 rows are those of one of the 8 hosts that
the recipe is for. Both take turns over the same number of pictures, each once it has warmed up, and
what is told are medians over the rounds, so that whatever else the machine does hits both. Exits
with 1 where the pipeline has less than 90% of the rate of decoding.
"""

import argparse
import functools
import io
import os
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from latentum_jax.config import ChatConfig, LatentUMConfig, VisionConfig
from latentum_jax.data.faults import Faults
from latentum_jax.data.streams import Streams
from latentum_jax.data.webdataset import TarShards
from latentum_jax.images import see
from latentum_jax.tokenizer import Tokenizer
from latentum_jax.train.data import open_feed
from latentum_jax.train.recipe import load_config

SIDE, WORDS, SHARDS, EXPECTED = 448, 60, 4, 0.9
WARM = 256  # pictures


def main() -> int:
    """Measures; 0 where the pipeline keeps up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both")
    parser.add_argument("--rows", type=int, default=128, help="a batch")
    parser.add_argument("--rounds", type=int, default=9, help="of each")
    parser.add_argument("--batches", type=int, default=2, help="a round and thread")
    parser.add_argument("--side", type=int, default=SIDE, help="of the pictures on disk")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = make_shards(Path(folder), args.side)
        tokenizer = Tokenizer.train((source[i].text for i in range(len(source))), 2000)
        count = args.batches * args.threads
        found = {"decode": [], "pipeline": []}
        for number in range(args.rounds + 1):
            tokenizer.encode.cache_clear()  # texts of a large data set do not come twice
            feed = open_shards(Path(folder), tokenizer, args.rows, args.threads)
            takes = {
                "decode": lambda: decode(source, count * args.rows, args.threads),
                "pipeline": functools.partial(pipeline, feed, count),
            }
            for name in sorted(takes, reverse=bool(number % 2)):  # each goes first as often
                seconds = takes[name]()
                if number:  # the first round warms up
                    found[name].append(seconds / (count * args.rows))
    return report(found, args)


def make_shards(folder: Path, side: int) -> TarShards:
    """512 pictures of soft noise (of 448 pixels about 65 kB each), with texts of 60 words."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aeioklmnrst"), 5)) for _ in range(1000)]
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for number in range(shard * 128, shard * 128 + 128):
                noise = Image.fromarray(rng.integers(0, 256, (56, 56, 3), np.uint8))
                noise.resize((side, side), Image.Resampling.BICUBIC).save(
                    file := io.BytesIO(), "JPEG", quality=90
                )
                _add(tar, f"{number:06d}.jpg", file.getvalue())
                _add(tar, f"{number:06d}.txt", " ".join(rng.choice(words, WORDS)).encode())
    return TarShards(folder)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def open_shards(folder: Path, tokenizer: Tokenizer, rows: int, threads: int) -> Streams:
    """The batches of stage `mome`."""
    config = load_config("mome_pretrain", {})
    config.data.update({"path": str(folder), "rows": rows, "threads": threads, "max_bad": 0})
    model = LatentUMConfig.from_dict(config.model.to_dict())
    return open_feed(config, model, ChatConfig(), tokenizer, Faults(None, 0))


def decode(source: TarShards, count: int, threads: int) -> np.ndarray:
    """Seconds, by the clock and of the processor, to decode `count` pictures."""
    vision = VisionConfig(image_size=SIDE)
    files = [source[i].image for i in range(len(source))]
    one = lambda number: see(files[number % len(files)], vision).shape  # noqa: E731
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, range(WARM)):  # threads and memory of a pipeline are gone then
            pass
        began = clocks()
        for _ in pool.map(one, range(count)):
            pass
        return clocks() - began


def pipeline(feed: Streams, count: int) -> np.ndarray:
    """The same for `count` batches in the midst of others, as training takes them."""
    taken = lambda number: [next(feed)["tokens"].shape for _ in range(number)]  # noqa: E731
    try:
        taken(2 * feed.ahead)
        began = clocks()
        taken(count)
        return clocks() - began
    finally:
        feed.close()  # or more would be made while pictures are decoded


def clocks() -> np.ndarray:
    """Seconds by the clock and of the processor, which other programs disturb less."""
    return np.array([time.perf_counter(), time.process_time()])


def report(found: dict[str, list[np.ndarray]], args: argparse.Namespace) -> int:
    """Prints medians of seconds a picture; 0 where the pipeline keeps up."""
    where = f"{args.threads} threads on {os.cpu_count()} cores, batches of {args.rows}"
    print(f"{where}, pictures of {args.side} pixels seen at {SIDE}")
    for name, rounds in found.items():
        wall, cpu = np.median(rounds, 0)
        slow, fast = 1 / np.max(rounds, 0)[0], 1 / np.min(rounds, 0)[0]
        print(
            f"{name:9}{1 / wall:7.0f} pictures/s ({slow:.0f} to {fast:.0f} over {len(rounds)} "
            f"rounds), {1000 * cpu:.2f} ms of the processor a picture"
        )
    wall, cpu = np.median(np.divide(found["decode"], found["pipeline"]), 0)
    print(f"pipeline / decode, median of the rounds: {wall:.1%}, of the processor's time {cpu:.1%}")
    return int(wall < EXPECTED)


if __name__ == "__main__":
    sys.exit(main())
