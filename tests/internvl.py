"""InternVL3.5 as transformers has it: a tiny model with random weights, and its processor."""

import functools

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from latentum_jax.images import IMAGE_MEAN, IMAGE_STD

try:  # InternVL's processor, the one that goes through PIL
    from transformers.models.got_ocr2 import image_processing_pil_got_ocr2 as processing

    ImageProcessor = processing.GotOcr2ImageProcessorPil
except ImportError:  # transformers 4
    from transformers.models.got_ocr2 import image_processing_got_ocr2 as processing

    ImageProcessor = processing.GotOcr2ImageProcessor

SIZES = {"image_size": [56, 56], "patch_size": [14, 14]}


def image_processor(size: int, **settings: object) -> object:
    """The processor for tiles of `size` pixels."""
    settings = {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD, **settings}
    square = {"height": size, "width": size}
    return ImageProcessor(crop_to_patches=True, size=square, **settings)


@functools.cache
def random_internvl() -> InternVLForConditionalGeneration:
    """The model: norms and scales are random too; 4 visual tokens a tile, the slots' id 863."""
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config=SIZES
        | {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "attention_bias": True,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": 1000,
            "hidden_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "intermediate_size": 56,
            "rope_theta": 5e5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
            "tie_word_embeddings": False,
        },
        tie_word_embeddings=False,
        image_token_id=863,
    )
    model = InternVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.2)
    return model
