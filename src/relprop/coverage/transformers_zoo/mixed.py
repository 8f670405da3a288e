"""Models of text and images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..subject import SETTLING
from .entry import LENGTH, SIZES, Entry, pixels, sentences
from .images import VIT

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT: dict[str, Any] = {**SIZES, **SPECIAL}
TWO: dict[str, Any] = {"text_config": TEXT, "vision_config": VIT, "projection_dim": 16}
IMAGE_TOKEN = 98


def both() -> dict[str, Tensor]:
    """As many images as sentences."""
    text = sentences()
    text["input_ids"] = text["input_ids"].clamp(max=97)
    text["input_ids"][:, -1] = 2  # where models look for the end of the sentence
    return {**text, **pixels()}


def captions() -> dict[str, Tensor]:
    """Images, and sentences that every image is compared with."""
    return {name: value if name == "pixel_values" else value[:3] for name, value in both().items()}


def embedded() -> dict[str, Tensor]:
    """A sentence with a place for every patch of its image."""
    given = both()
    patches = torch.full((SETTLING, 16), IMAGE_TOKEN)
    given["input_ids"] = torch.cat([given["input_ids"][:, :4], patches, given["input_ids"][:, 4:]], 1)
    given["attention_mask"] = torch.ones(SETTLING, LENGTH + 16, dtype=torch.long)
    return given


def prefixed() -> dict[str, Tensor]:
    """The same, with what a processor adds: which tokens see each other in both directions (0, the prefix)."""
    given = embedded()
    return {**given, "token_type_ids": torch.zeros_like(given["input_ids"])}


LLAMA = {**TEXT, "num_key_value_heads": 2, "model_type": "llama"}

ENTRIES = {
    "clip": Entry("CLIPModel", TWO, captions),
    "siglip": Entry("SiglipModel", {"text_config": {**TEXT, "projection_size": 32}, "vision_config": VIT}, captions),
    "chinese_clip": Entry("ChineseCLIPModel", TWO, captions),
    "align": Entry(
        "AlignModel",
        {
            "text_config": TEXT,
            "vision_config": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 32},
            "projection_dim": 80,
        },
        captions,
    ),
    "clipseg": Entry("CLIPSegForImageSegmentation", {**TWO, "extract_layers": [0, 1], "reduce_dim": 16}, both),
    "blip": Entry("BlipForImageTextRetrieval", {**TWO, "image_text_hidden_size": 16}, both),
    "vilt": Entry("ViltForQuestionAnswering", {**TEXT, **VIT, "max_image_length": -1}, both),
    "git": Entry("GitForCausalLM", {**TEXT, "vision_config": VIT}, both),
    "llava": Entry(
        "LlavaForConditionalGeneration",
        {
            "text_config": LLAMA, "vision_config": {**VIT, "model_type": "clip_vision_model"},
            "image_token_index": IMAGE_TOKEN, "image_token_id": IMAGE_TOKEN,
            "vision_feature_select_strategy": "default", "vision_feature_layer": -1, "image_seq_length": 16,
        },
        embedded,
    ),
    "paligemma": Entry(
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": {**LLAMA, "model_type": "gemma", "head_dim": 8},
            "vision_config": {**VIT, "model_type": "siglip_vision_model"}, "projection_dim": 32, "hidden_size": 32,
            "image_token_index": IMAGE_TOKEN, "image_token_id": IMAGE_TOKEN,
        },
        prefixed,
    ),
}  # fmt: skip
