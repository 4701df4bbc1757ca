"""Every architecture as a frozen dataclass: the published size by default, `tiny()` beside it.

Numbers are those of LatentUM-Base (arXiv 2604.02097, section 3.1): InternVL3.5-4B with a second
branch, an MBAQ quantizer of 8 x 2048 codes and a three-layer autoregressive vision head.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """InternViT-300M-448px-V2.5 and the pixel shuffle behind it."""

    image_size: int = 448
    patch_size: int = 14
    hidden_size: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_size: int = 4096
    layer_norm_eps: float = 1e-6
    shuffle: int = 2
    canvas: int | None = None  # see `images.square`; None is the published squeeze
    initializer_factor: float = 1.0  # what LayerScale starts from

    @property
    def grid(self) -> int:
        """Patches along one side of an image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """L, the visual tokens of an image after the pixel shuffle."""
        return (self.grid // self.shuffle) ** 2

    @property
    def feature_size(self) -> int:
        """F, the width of a pixel-shuffled feature."""
        return self.hidden_size * self.shuffle**2

    @classmethod
    def tiny(cls) -> "VisionConfig":
        """96 px of a 384 px canvas as 36 visual tokens: of mazes up to 6x6, a token is a cell."""
        return cls(
            image_size=96,
            patch_size=16,
            hidden_size=128,
            num_layers=6,
            num_heads=4,
            mlp_size=512,
            shuffle=1,
            canvas=384,
            initializer_factor=0.1,
        )


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Qwen3 with a generation branch beside every understanding weight (MoME, section 3.1.2)."""

    vocab_size: int = 151936
    hidden_size: int = 2560
    num_layers: int = 36
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    mlp_size: int = 9728
    rms_eps: float = 1e-6
    rope_theta: float = 1e6
    tie_embeddings: bool = False
    max_positions: int = 40960

    @classmethod
    def tiny(cls) -> "LanguageConfig":
        """Six layers of width 128."""
        return cls(
            vocab_size=512,
            hidden_size=128,
            num_layers=6,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            mlp_size=384,
            rope_theta=1e4,
            max_positions=1024,
        )


@dataclasses.dataclass(frozen=True)
class QuantizerConfig:
    """MBAQ: C codebooks of V codes over chunks of the down-projected features (section 3.1.1)."""

    num_codebooks: int = 8
    codebook_size: int = 2048
    embedding_dim: int = 256
    mlp_ratio: int = 4
    commitment: float = 0.25
    entropy: float = 0.1
    usage_decay: float = 0.99
    dead_share: float = 0.03
    max_restarts: int = 64

    @property
    def chunk_dim(self) -> int:
        """Width of the chunk that one codebook quantizes."""
        return self.embedding_dim // self.num_codebooks

    @classmethod
    def tiny(cls) -> "QuantizerConfig":
        """Two codebooks of 16 codes."""
        return cls(
            num_codebooks=2, codebook_size=16, embedding_dim=32, mlp_ratio=1, usage_decay=0.9
        )


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The autoregressive vision head over the C codes of one visual token (section 3.1.3)."""

    num_layers: int = 3
    num_heads: int = 32
    mlp_ratio: float = 4.0
    rope_theta: float = 1e4

    @classmethod
    def tiny(cls) -> "HeadConfig":
        """Two layers."""
        return cls(num_layers=2, num_heads=4)


@dataclasses.dataclass(frozen=True)
class LatentUMConfig:
    """The whole model."""

    vision: VisionConfig = VisionConfig()
    language: LanguageConfig = LanguageConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    head: HeadConfig = HeadConfig()

    @classmethod
    def tiny(cls) -> "LatentUMConfig":
        """The size of the bundled FrozenLake model."""
        return cls(
            VisionConfig.tiny(), LanguageConfig.tiny(), QuantizerConfig.tiny(), HeadConfig.tiny()
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, as written to config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LatentUMConfig":
        """The inverse of `to_dict`; unknown or missing keys are an error naming them."""
        return _from_dict(cls, values, "model config")


def _from_dict(cls: type, values: dict[str, Any], name: str) -> Any:
    """A dataclass, and those it holds, of nested dicts."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    if set(values) != set(fields):
        odd = sorted(set(values) ^ set(fields))
        raise ValueError(f"{name}: unknown or missing keys {odd}")
    made = {}
    for key, kind in fields.items():
        value = values[key]
        if dataclasses.is_dataclass(kind):
            value = _from_dict(kind, value, f"{name} `{key}`")
        made[key] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
    """SD3.5-medium's MMDiT-X, its text replaced by the z_q of an image (section 3.1.4).

    The first `dual_layers` blocks attend over the image alone besides. `references` frames are
    concatenated to the noisy latents, channel by channel (appendix D). The published context has
    no positions: its z_q says where it is. Codes of a small codebook are the same wherever they
    are, and `token_patches`, the patches along a side of a visual token, gives each their position.
    `pooled_size` is the width of SD3.5's pooled text, whose embedder every published file has and
    nothing uses; None leaves it out.
    """

    depth: int = 24
    hidden_size: int = 1536
    num_heads: int = 24
    mlp_size: int = 6144
    patch_size: int = 2
    latent_channels: int = 16
    context_dim: int = 256
    dual_layers: int = 13
    position_side: int = 384  # patches along a side of the position table
    references: int = 0
    token_patches: int | None = None
    pooled_size: int | None = 2048

    @classmethod
    def tiny(cls) -> "MMDiTConfig":
        """Three blocks of width 96."""
        return cls(
            depth=3,
            hidden_size=96,
            num_heads=3,
            mlp_size=288,
            context_dim=32,
            dual_layers=1,
            position_side=16,
            token_patches=2,
            pooled_size=None,
        )


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """SD3.5's autoencoder: an eighth of the image, 16 channels, latents = (z - shift) scale."""

    latent_channels: int = 16
    channels: tuple[int, ...] = (128, 256, 512, 512)  # of each level, full resolution first
    layers_per_level: int = 2
    norm_groups: int = 32
    scale: float = 1.5305
    shift: float = 0.0609

    @property
    def factor(self) -> int:
        """Pixels along a side of one latent."""
        return 2 ** (len(self.channels) - 1)

    @classmethod
    def tiny(cls) -> "VAEConfig":
        """The same four levels, narrow."""
        return cls(channels=(16, 24, 32, 48), layers_per_level=1, norm_groups=8)


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The pixel decoder: MMDiT in the latents of the VAE, trained at `image_size` pixels."""

    mmdit: MMDiTConfig = MMDiTConfig()
    vae: VAEConfig = VAEConfig()
    image_size: int = 448

    @classmethod
    def tiny(cls) -> "DecoderConfig":
        """192 pixels in latents of 24 x 24."""
        return cls(MMDiTConfig.tiny(), VAEConfig.tiny(), image_size=192)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, as written to config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DecoderConfig":
        """The inverse of `to_dict`; unknown or missing keys are an error naming them."""
        return _from_dict(cls, values, "decoder config")


@dataclasses.dataclass(frozen=True)
class AlignerConfig:
    """LatentUMM's aligner of text and image embeddings (arXiv 2605.17766).

    The published embeddings are Gemini's, of one width d that z has too; others may differ in it.
    """

    text_dim: int = 3072
    image_dim: int = 3072
    latent_dim: int = 3072
    hidden_size: int = 1024
    num_layers: int = 2
    num_heads: int = 8
    mlp_ratio: int = 4
    dropout: float = 0.1
    layer_norm_eps: float = 1e-5

    @classmethod
    def tiny(cls) -> "AlignerConfig":
        """Embeddings of 16 and 24 numbers in a latent space of 16."""
        return cls(text_dim=16, image_dim=24, latent_dim=16, hidden_size=32, num_heads=2)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, as written to config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AlignerConfig":
        """The inverse of `to_dict`; unknown or missing keys are an error naming them."""
        return _from_dict(cls, values, "aligner config")


@dataclasses.dataclass(frozen=True)
class SentenceConfig:
    """A BERT that embeds sentences: all-MiniLM-L6-v2 by default."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_layers: int = 6
    num_heads: int = 12
    mlp_size: int = 1536
    max_positions: int = 512
    layer_norm_eps: float = 1e-12


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """What a model is spoken to with: the system message and the instructions of its planner."""

    system: str = (
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
        "多模态大语言模型。"
    )
    fine_prompt: str = ""
    coarse_prompt: str = ""
