"""`latentum convert`: every checkpoint that we know to our layout, and ours to the published."""

import dataclasses
from pathlib import Path
from typing import Literal

from latentum_jax.convert.decoder import (
    open_decoder,
    open_sd3_5,
    write_published_decoder,
)
from latentum_jax.convert.published import INTERNVL, LATENTUM, open_model, write_published
from latentum_jax.decoder.folder import FORMAT as DECODER
from latentum_jax.decoder.folder import DecoderFolder, write_decoder_folder
from latentum_jax.models.folder import FORMAT as MODEL
from latentum_jax.models.folder import read_config, write_folder

Layout = Literal["ours", "published"]
SD3_5 = "SD3.5"
OURS = {MODEL: "a model of this library", DECODER: "a decoder of this library"}
DECODERS = (SD3_5, "a published decoder", OURS[DECODER])


@dataclasses.dataclass(frozen=True)
class Options:
    """What only some sources have a use for.

    sd3_5: SD3.5's folder, for a published decoder whose config names another place.
    references: frames that a decoder started from SD3.5 takes.
    allow_pickle: whether torch's own files are read too, their weights alone.
    """

    sd3_5: Path | None = None
    references: int | None = None
    allow_pickle: bool = False


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Layout | None = None,
    dtype: str | None = None,
    options: Options | None = None,
) -> str:
    """Converts a checkpoint and returns what it was.

    Our models and decoders become published folders; published LatentUMs and decoders, InternVL3.5
    and SD3.5-medium become ours, their parameters an orbax checkpoint (`params/`). No more than a
    few of its arrays are in memory at a time, and `target` is there once it is whole: a run that
    was interrupted is started again.

    Args:
      source: a folder, or SD3.5's single file.
      target: the folder to write, which is not there yet.
      to: the layout to write, by default the one that the source does not have.
      dtype: "float32" or "bfloat16" (the quantizer stays in fp32), by default as in the source.
      options: see there.

    Raises:
      ValueError: one sentence, where the source is none of these or broken, the target is there,
        or the published layout has no such model.
    """
    source, target, options = Path(source), Path(target), options or Options()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there already, expected a folder to be made")
    kind = kind_of(source)
    to = to or ("published" if kind in OURS.values() else "ours")
    if to not in ("ours", "published"):
        raise ValueError(f"to is {to!r}, expected 'ours' or 'published'")
    if options.references is not None and kind != SD3_5:
        raise ValueError(f"{source} is {kind}: references are asked for with SD3.5 alone")
    if kind not in DECODERS:
        model = open_model(source, allow_pickle=options.allow_pickle)
        if to == "published":
            write_published(target, model, dtype=dtype)
        else:
            write_folder(target, model, dtype=dtype, storage="orbax")
        return kind
    decoder = _open_decoder(kind, source, options)
    if to == "published":
        write_published_decoder(target, decoder, dtype=dtype)
    else:
        write_decoder_folder(target, decoder, dtype=dtype, storage="orbax")
    return kind


def _open_decoder(kind: str, source: Path, options: Options) -> DecoderFolder:
    if kind == SD3_5:
        references = options.references or 0
        return open_sd3_5(source, references=references, allow_pickle=options.allow_pickle)
    return open_decoder(source, options.sd3_5, allow_pickle=options.allow_pickle)


def kind_of(source: Path) -> str:
    """What a checkpoint is. Raises ValueError where it is nothing that we know."""
    if source.is_file() or (source / "transformer").is_dir():
        return SD3_5
    values = read_config(source)
    if LATENTUM in values:
        return "a published LatentUM"
    if values.get("model_type") in INTERNVL:
        return "an InternVL"
    if "ref_mode" in values:
        return "a published decoder"
    if values.get("format") not in OURS:
        raise ValueError(
            f"{source} is neither a LatentUM nor a decoder, published or of this library, "
            "nor InternVL3.5 nor SD3.5"
        )
    return OURS[values["format"]]
