"""LatentUM in JAX: one model that reasons in text and in latent images, with no pixels in between.

Axis letters, used in every shape of this package:

    B  batch                      K  key/value heads
    T  query positions            H  head dimension
    S  key positions              D  model dimension
    N  query heads                C  codebooks
    L  visual tokens of an image  V  codes of a codebook
    F  feature dimension of V, the pixel-shuffled ViT output
    J  images of a row            P  side of an image in pixels
    W  steps of a rollout

Branches: `und` (understanding: text, and images as they are read) and `gen` (generation: `<img>`
about to draw, and the visual tokens being drawn).
"""

__version__ = "0.1.0"
