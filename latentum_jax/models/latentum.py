"""LatentUM: the towers composed (section 3.1), each door a method for `model.apply`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta
from jaxtyping import Array, Float, Int

from latentum_jax.config import LatentUMConfig
from latentum_jax.kernels.placement import Placement
from latentum_jax.models.caches import Cache, Caches, KVCache, SegmentedCache
from latentum_jax.models.internvit import InternViT, Mlp1
from latentum_jax.models.layers import MLP, Dtype, Remat, Rounded, Turned
from latentum_jax.models.mome import LanguageModel, Stream
from latentum_jax.models.quantizer import MBAQ, Quantized
from latentum_jax.models.stored import on_device
from latentum_jax.models.vision_head import AHEAD, VisionHead

Params = Mapping[str, Any]
DECODED = ("language", "head")  # parts whose layers run for one token at a time
TURNED = ("cpu", "tpu")  # platforms whose programs want kernels [out, in]
RUN_OFTEN = ("head", "visual_projector")  # and those of which all does


class LatentUM(nn.Module):
    """ViT and mlp1, the two-branch language model, MBAQ, visual_projector and the vision head."""

    config: LatentUMConfig
    dtype: Dtype = jnp.float32
    remat: Remat = "none"

    def setup(self) -> None:
        c, d = self.config, self.config.language.hidden_size
        self.vision = InternViT(c.vision, self.dtype, self.remat)
        self.mlp1 = Mlp1(d, self.dtype)
        self.language = LanguageModel(c.language, self.dtype, self.remat)
        # In bfloat16 most codes would be others than in fp32; published files keep it in fp32 too.
        self.quantizer = MBAQ(c.quantizer, c.vision.feature_size, d, jnp.float32)
        self.visual_projector = MLP(d, d, self.dtype)
        self.head = VisionHead(c.head, c.quantizer, d, self.dtype, self.remat)

    def encode_image(self, pixels: Float[Array, "B P P 3"]) -> Float[Array, "B L F"]:
        """V, the features that both mlp1 and the quantizer read."""
        return self.vision(pixels)

    def understand(self, features: Float[Array, "B L F"]) -> Float[Array, "B L D"]:
        """mlp1: embeddings of continuous features."""
        return self.mlp1(features)

    def quantize(self, features: Float[Array, "B L F"]) -> Quantized:
        """z, z_q and codes of features."""
        return self.quantizer(features)

    def understand_quantized(self, z_q: Float[Array, "*b L E"]) -> Float[Array, "*b L D"]:
        """up_proj: embeddings that stand for mlp1's (MBAQ training, quantized understanding)."""
        return self.quantizer.up(z_q).astype(self.dtype)

    def look_up(self, codes: Int[Array, "*b C"]) -> Float[Array, "*b E"]:
        """z_q of codes."""
        return self.quantizer.look_up(codes)

    def show(self, codes: Int[Array, "*b C"]) -> Float[Array, "*b D"]:
        """visual_projector(z_q): how generated images enter the context, never as pixels."""
        return self.visual_projector(self.quantizer.look_up(codes).astype(self.dtype))

    def embed(self, tokens: Int[Array, "*b T"]) -> Float[Array, "*b T D"]:
        """Text embeddings."""
        return self.language.embed(tokens)

    def hidden(
        self, x: dict[str, Array], stream: Stream, caches: Caches | None = None
    ) -> tuple[dict[str, Array], Caches | None]:
        """Final-normed hidden states of both branches."""
        return self.language(x, stream, caches)

    def text_logits(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b vocab"]:
        """lm_head."""
        return self.language.logits(hidden)

    def code_logits(
        self, hidden: Float[Array, "M D"], codes: Int[Array, "M C"]
    ) -> Float[Array, "M C V"]:
        """Vision head, teacher-forced."""
        return self.head(hidden, codes)

    def codes_ahead(self) -> Float[Array, "C V 3 N H"]:
        """What the vision head can look up (see `VisionHead.ahead`)."""
        return self.head.ahead()

    def __call__(self, pixels: Float[Array, "B P P 3"]) -> Float[Array, "B L C V"]:
        """Touches every weight once: the door that makes parameters."""
        features = self.vision(pixels)
        quantized = self.quantizer(features)
        und = self.mlp1(features) + self.quantizer.up(quantized.z_q)
        b, length, _ = und.shape
        at = Placement.causal(jnp.broadcast_to(jnp.arange(length), (b, length)))
        x = {"und": und, "gen": self.show(quantized.codes)}
        hidden, _ = self.language(x, Stream({"und": at, "gen": at}))
        self.language.logits(hidden["und"])
        flat = self.head(
            hidden["gen"].reshape(b * length, -1), quantized.codes.reshape(b * length, -1)
        )
        return flat.reshape(b, length, *flat.shape[1:])


def boxed_params(config: LatentUMConfig, key: jax.Array, dtype: Dtype = jnp.float32) -> Params:
    """Fresh fp32 parameters, still carrying their logical axis names."""
    side = config.vision.image_size
    return LatentUM(config, dtype).init(key, jnp.zeros((1, side, side, 3)))["params"]


def init_params(config: LatentUMConfig, key: jax.Array) -> Params:
    """Fresh fp32 parameters as a plain nested dict."""
    return meta.unbox(jax.jit(lambda k: boxed_params(config, k))(key))


def start_generation_branch(params: Params) -> Params:
    """MoME initialisation (section 3.1.2): the generation branch begins as a copy of `und`.

    visual_projector begins as a copy of the quantizer's up_proj where they are of one shape (at the
    tiny size): MBAQ has made that into embeddings which the understanding branch, and so its copy,
    can read.
    """
    language = dict(params["language"])
    layers = dict(language["layers"])
    layers["gen"] = layers["und"]
    language["layers"] = layers
    projector, up = params["visual_projector"], params["quantizer"]["up_proj"]
    if jax.tree.map(jnp.shape, projector) == jax.tree.map(jnp.shape, up):
        projector = up
    return {**params, "language": language, "visual_projector": projector}


def unstack_layers(
    params: Params, *, weights: str | None = None, platform: str | None = None
) -> Params:
    """Parameters as decoding wants them: of `DECODED` a tuple with one tree a layer.

    With `weights` "int8" or "fp8" the kernels of these layers become `Rounded`. The others, and
    those that `RUN_OFTEN` has, become `Turned` where the `platform` is one of `TURNED`.
    """
    return {name: _held(name, part, None, weights, platform) for name, part in params.items()}


def hold(params: Params, dtype: str, weights: str | None = None) -> Params:
    """Stored parameters as they are held for running here: `unstack_layers`, and all else in
    `dtype` but for the quantizer's, which stay in fp32. Read a part at a time."""
    here = jax.default_backend()
    kinds = {name: "float32" if name == "quantizer" else dtype for name in params}
    return {name: _held(name, part, kinds[name], weights, here) for name, part in params.items()}


def unstack_here(model: LatentUM, params: Params, weights: str | None = None) -> Params:
    """`unstack_layers` and `look_codes_up` as they are of use on this machine."""
    return ready(model, unstack_layers(params, weights=weights, platform=jax.default_backend()))


def ready(model: LatentUM, params: Params) -> Params:
    """What `hold` gives, on a CPU with what `look_codes_up` adds."""
    return look_codes_up(model, params) if jax.default_backend() == "cpu" else params


def look_codes_up(model: LatentUM, params: Params) -> Params:
    """Parameters of which nothing will be trained any more, `unstack_layers`, with what the vision
    head can then look up instead of multiplying it out (on a CPU; of an image's time an H100 would
    save 1.4%, for 0.25 GB)."""
    made = jax.jit(lambda p: model.apply({"params": p}, method="codes_ahead"))(params)
    return {**params, "head": {**params["head"], AHEAD: made}}


def bytes_of_a_token(params: Params) -> int:
    """Of the weights that a visual token is drawn with, each of them counted once."""
    layers = params["language"]["layers"]
    layers = layers if isinstance(layers, tuple) else (layers,)
    tables = ("embeddings", AHEAD)  # of which a row is read
    head = {name: part for name, part in params["head"].items() if name not in tables}
    return sum(x.nbytes for x in jax.tree.leaves(([layer["gen"] for layer in layers], head)))


def cache_kind(params: Params) -> type[Cache]:
    """In what a program of these parameters keeps keys and values: segments where they are held for
    a CPU (`hold`)."""
    kernel = params["visual_projector"]["fc1"]["kernel"]
    return SegmentedCache if isinstance(kernel, Turned) and kernel.few else KVCache


def _held(
    name: str, part: Params, dtype: str | None, weights: str | None, platform: str | None
) -> Params:
    def read(x: Any, index: Any, weights: str | None, platform: str | None) -> Any:
        value = on_device(x[index], dtype)
        if value.ndim != 2:
            return value
        if weights:
            return Rounded.of(value, weights)
        return Turned.of(value, platform) if platform in TURNED else value

    part, layers = dict(part), {}
    if name in DECODED:
        stack = part.pop("layers")
        count = jax.tree.leaves(stack)[0].shape[0]
        one = lambda i: jax.tree.map(lambda x: read(x, i, weights, platform), stack)  # noqa: E731
        layers = {"layers": tuple(one(i) for i in range(count))}
    platform = platform if name in RUN_OFTEN else None
    return {**jax.tree.map(lambda x: read(x, ..., None, platform), part), **layers}


def stack_layers(params: Params, join: Callable[[Sequence[Any]], Any] = jnp.stack) -> Params:
    """The way back: parameters as they are trained and stored."""

    def of(part: Params) -> Params:
        part = {name: value for name, value in part.items() if name != AHEAD}
        return {**part, "layers": jax.tree.map(lambda *parts: join(parts), *part["layers"])}

    leaf = lambda x: isinstance(x, Turned)  # noqa: E731
    params = jax.tree.map(lambda x: x.kernel if leaf(x) else x, params, is_leaf=leaf)
    return {name: of(part) if name in DECODED else part for name, part in params.items()}


def held_dtype(path: str, dtype: Dtype) -> Dtype:
    """In which dtype a parameter is held where others are in `dtype`: a quantizer's stay in fp32,
    for rounded it would give other codes."""
    return jnp.float32 if re.search(r"(^|/)quantizer/", path) else dtype


def path_of(key_path: tuple[Any, ...]) -> str:
    """A parameter's path as one string, `language/layers/gen/q_proj/kernel`."""
    return "/".join(str(k.key) for k in key_path)


def matching(params: Params, pattern: str) -> list[str]:
    """Paths of the parameters that a regular expression finds."""
    paths = [path_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return [path for path in paths if re.search(pattern, path)]
