"""Pictures encoded once train as if they were encoded at every step."""

import io
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image

from latentum_jax import cli
from latentum_jax.config import ChatConfig
from latentum_jax.configs.base import base
from latentum_jax.data.faults import Faults
from latentum_jax.data.records import Records
from latentum_jax.decoder.folder import DecoderFolder, write_decoder_folder
from latentum_jax.decoder.pixel_decoder import init_decoder_params
from latentum_jax.images import see
from latentum_jax.pretrained import LatentUM
from latentum_jax.train.data import open_feed, open_pictures
from latentum_jax.train.stages.mome import drawn_loss
from latentum_jax.train.stages.sequence import dual_sequence
from tests.models_on_disk import write_random_model
from tests.small import DECODER, SMALL

COUNT, BROKEN = 7, 3


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (30, 30, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a decoder, and a shard of seven samples, one of which has no picture."""
    path = tmp_path_factory.mktemp("precompute")
    write_random_model(path / "model")
    params = init_decoder_params(DECODER, jax.random.key(0))
    write_decoder_folder(path / "decoder", DecoderFolder(DECODER, params), dtype="float32")
    with tarfile.open(path / "0.tar", "w") as tar:
        for i in range(COUNT):
            data = b"no picture" if i == BROKEN else picture(i)
            for name, content in ((f"{i}.png", data), (f"{i}.txt", f"up {i}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def command(folder, out, *options):
    return [
        *["precompute", "--config", "mome_pretrain", "--checkpoint", str(folder / "model")],
        *["--config.data.path", str(folder / "0.tar"), "--out", str(folder / out)],
        *["--batch", "2", "--shard", "3", *options],
    ]


def test_rows_are_what_the_model_makes_of_the_pictures(folder, capsys):
    """Breaks if a row has another sample's codes or text, or a broken sample ends it or is lost."""
    assert cli.main(command(folder, "codes")) == 0
    assert "6 rows in" in capsys.readouterr().out
    rows, model = Records(folder / "codes"), LatentUM.from_pretrained(folder / "model")
    good = [i for i in range(COUNT) if i != BROKEN]
    assert [bytes(rows[i]["text"]).decode() for i in range(6)] == [f"up {i}" for i in good]
    pictures = [Image.open(io.BytesIO(picture(i))) for i in good]
    codes = np.stack([rows[i]["codes"] for i in range(6)])
    np.testing.assert_array_equal(codes, model.encode(pictures)[1])
    assert "3.png" in (folder / "codes" / "bad_samples.jsonl").read_text()
    assert cli.main(command(folder, "codes")) == 2  # they are all there
    assert "finished is True, expected False" in capsys.readouterr().err


def test_it_goes_on_where_it_stopped(folder, monkeypatch, capsys):
    """Breaks if a shard is made twice, or one that was being made is taken for whole."""
    from latentum_jax import precompute

    encoded = precompute.Encoder._encoded

    def dies(self, some):
        dies.calls += 1
        if dies.calls == 3:
            raise KeyboardInterrupt
        return encoded(self, some)

    dies.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(precompute.Encoder, "_encoded", dies)
        assert cli.main(command(folder, "broken")) == 130
    assert cli.main(command(folder, "broken")) == 0
    assert cli.main(command(folder, "whole")) == 0
    broken, whole = Records(folder / "broken"), Records(folder / "whole")
    for i in range(6):
        for name, value in whole[i].items():
            np.testing.assert_array_equal(broken[i][name], value)


def feed_of(folder, small, source, path, rows=1):
    config = base(SMALL, DECODER)
    config.data.update({"source": source, "path": str(folder / path), "rows": rows, "length": 16})
    config.data.update({"images": 1, "targets": 1, "threads": 1})
    return config, open_feed(config, SMALL, ChatConfig(), small.tokenizer, Faults(None, 1))


def test_training_on_codes_is_training_on_pictures(folder, small):
    """Breaks if a stage reads codes otherwise than those it would have made itself."""
    assert cli.main(command(folder, "train")) == 0

    @jax.jit
    def loss(batch):
        made = dual_sequence(
            small.model, small.params, batch, jax.random.key(0), img=small.tokenizer.ids.img
        )
        return drawn_loss(small.model, small.params, batch, made[0]["gen"], made[1])

    found = []
    for source, path in (("webdataset", "0.tar"), ("records", "train")):
        feed = feed_of(folder, small, source, path)[1]
        batches = [next(feed) for _ in range(2 * COUNT)]
        found.append({tuple(x["tokens"][0].tolist()): float(loss(x)[0]) for x in batches})
    assert "codes" in batches[0] and "pixels" not in batches[0]
    assert len(found[0]) == 6 and found[0] == pytest.approx(found[1], rel=1e-5)


def test_latents_for_a_decoder(folder, small):
    """Breaks if the latents are of other pictures than the codes, or lose more than 16 bits do."""
    assert cli.main(command(folder, "latents", "--decoder", str(folder / "decoder"))) == 0
    config, _ = feed_of(folder, small, "records", "latents", rows=6)
    batch = next(open_pictures(config, SMALL.vision, DECODER, Faults(None, 0)))
    assert batch["codes"].shape == (6, 4, 2) and batch["mean"].shape == (6, 16, 16, 16)
    assert batch["log_variance"].dtype == np.float16
    from latentum_jax.pixel_decoder import PixelDecoder
    from latentum_jax.precompute import latent_moments

    decoder, rows = PixelDecoder.from_pretrained(folder / "decoder"), Records(folder / "latents")
    image = Image.open(io.BytesIO(picture(0))).resize((32, 32), Image.Resampling.BILINEAR)
    mean, _ = latent_moments(decoder.model, decoder.params, np.asarray(image)[None])
    np.testing.assert_allclose(rows[0]["mean"], mean[0], atol=2e-3)
    assert see(image, SMALL.vision).shape == (28, 28, 3)
