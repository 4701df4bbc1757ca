"""`PixelDecoder.from_pretrained(...)`: the codes' z_q in, pictures out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from latentum_jax.config import DecoderConfig
from latentum_jax.convert.decoder import open_decoder, write_published_decoder
from latentum_jax.cores import side_by_side
from latentum_jax.decoder import pixel_decoder as net
from latentum_jax.decoder.folder import DecoderFolder, write_decoder_folder
from latentum_jax.files import BUNDLED
from latentum_jax.generate.sampling import row_seeds
from latentum_jax.images import ImageLike, load_image
from latentum_jax.kept import program
from latentum_jax.models.latentum import Params
from latentum_jax.models.stored import on_device

STEPS = 25  # of the published image demo; the planning demo takes 50


class PixelDecoder:
    """A pixel decoder with its parameters, batched in every call."""

    def __init__(self, config: DecoderConfig, params: Params, *, dtype: str = "float32"):
        self.config = config
        self.model = net.PixelDecoder(config, jnp.dtype(dtype))
        self.params = jax.tree.map(lambda x: on_device(x[...], dtype), params)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, sd3_5: str | Path | None = None, dtype: str = "float32"
    ) -> "PixelDecoder":
        """A decoder folder, ours or a published one, or the model, given as to
        `LatentUM.from_pretrained`, that has a `decoder` in its folder.

        `sd3_5` is the SD3.5 folder of a published one whose config names another place.

        Raises ValueError where there is no such decoder or it is broken.
        """
        opened = open_decoder(find_decoder(path), sd3_5)
        return cls(opened.config, opened.params, dtype=dtype)

    def save_pretrained(
        self,
        path: str | Path,
        *,
        layout: Literal["ours", "published"] = "ours",
        dtype: str = "float32",
    ) -> None:
        """Writes the folder that `from_pretrained` reads, our own or a published one."""
        if layout not in ("ours", "published"):
            raise ValueError(f"layout is {layout!r}, expected 'ours' or 'published'")
        write = write_decoder_folder if layout == "ours" else write_published_decoder
        write(path, DecoderFolder(self.config, self.params), dtype=dtype)

    def decode(
        self,
        z_q: np.ndarray,
        *,
        references: Sequence[ImageLike] | None = None,
        steps: int = STEPS,
        guidance: float = 1.0,
        size: tuple[int, int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Pictures uint8 [B height width 3] of z_q [B L E], as `LatentUM.z_q(codes)` gives it.

        Args:
          z_q: what the picture shows.
          references: frames that the picture goes on from, oldest first, for a decoder that takes
            them: the same for every row.
          steps: Euler steps.
          guidance: 1 for none; above, away from the picture of an empty context.
          size: height and width in pixels, those the decoder was trained at by default.
          seeds: a row each, 0, 1, ... by default.

        Raises:
          ValueError: z_q of another width, frames missing, too many or too few, or a size that the
            latents do not divide.
        """
        c = self.config
        z_q = jnp.asarray(z_q)
        if z_q.ndim != 3 or z_q.shape[-1] != c.mmdit.context_dim:
            raise ValueError(f"z_q is {list(z_q.shape)}, expected [B, L, {c.mmdit.context_dim}]")
        height, width = size or (c.image_size, c.image_size)
        unit = c.vae.factor * c.mmdit.patch_size
        if height % unit or width % unit or min(height, width) < unit:
            raise ValueError(f"size is {height} x {width}, expected multiples of {unit}")
        shape = (height // c.vae.factor, width // c.vae.factor, c.mmdit.latent_channels)
        frames = self._frames(references or (), (height, width))

        def drawn(z_q: jax.Array, seeds: jax.Array) -> np.ndarray:
            latents = net.sample_latents(
                self.model,
                self.params,
                z_q,
                _noise(seeds, 0, shape),
                _encode(self.model, self.params, frames, seeds, shape) if len(frames) else None,
                steps=steps,
                guidance=guidance if guidance > 1 else None,
            )
            return np.asarray(net.to_uint8(_pixels(self.model, self.params, latents)))

        # A picture has hundreds of tokens that go through the weights together.
        return side_by_side(drawn, z_q, row_seeds(seeds, len(z_q)), fewest=1)

    def _frames(self, references: Sequence[ImageLike], size: tuple[int, int]) -> np.ndarray:
        """Reference frames in [-1, 1], [F height width 3]."""
        expected = self.config.mmdit.references
        if len(references) != expected:
            raise ValueError(f"{len(references)} reference frames, this decoder takes {expected}")
        frames = [load_image(i).resize(size[::-1], Image.Resampling.BILINEAR) for i in references]
        return np.asarray([np.asarray(f) for f in frames], np.float32) / 127.5 - 1


def find_decoder(path: str | Path) -> Path:
    """The folder of a decoder given by folder, finished workdir, or the model it belongs to."""
    path = Path(path)
    own = [path / "decoder", path / "model" / "decoder"]
    if path.name == str(path):
        own.append(BUNDLED / path / "decoder")
    for folder in (*own, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    return path


@program(static=("purpose", "shape"))
def _noise(seeds: jax.Array, purpose: int, shape: tuple[int, ...]) -> jax.Array:
    """Unit normals [B *shape]: a row's depend on its seed alone."""
    draw = lambda seed: jax.random.normal(jax.random.fold_in(jax.random.key(seed), purpose), shape)  # noqa: E731
    return jax.vmap(draw)(seeds)


@program(static=("model", "shape"))
def _encode(
    model: net.PixelDecoder,
    params: Params,
    frames: jax.Array,
    seeds: jax.Array,
    shape: tuple[int, ...],
) -> jax.Array:
    """Latents of the frames as every row draws them, channels of one frame behind another's."""
    eps = _noise(seeds, 1, (len(frames), *shape))
    z = model.apply({"params": params}, frames, eps, method="encode")
    return jnp.moveaxis(z, 1, 3).reshape(len(seeds), *shape[:2], -1)


@program(static=("model",))
def _pixels(model: net.PixelDecoder, params: Params, latents: jax.Array) -> jax.Array:
    return model.apply({"params": params}, latents, method="pixels")
