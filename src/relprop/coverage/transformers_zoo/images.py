"""Models of images."""

from __future__ import annotations

from typing import Any

from .entry import Entry, of_size, pixels

HEAD = "ForImageClassification"
VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
WINDOWS: dict[str, Any] = {
    "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
}  # fmt: skip


def image(name: str, size: int = 32, **config: object) -> Entry:
    """A classifier of square images."""
    return Entry(name + HEAD, config, of_size(pixels, size))


ENTRIES = {
    "vit": image("ViT", **VIT),
    "deit": image("DeiT", **VIT),
    "beit": image("Beit", **VIT, use_relative_position_bias=True, layer_scale_init_value=0.1),
    "dinov2": image("Dinov2", **VIT),
    "dinov3_vit": Entry("DINOv3ViTModel", VIT, of_size(pixels, 32)),
    "hiera": image(
        "Hiera", embed_dim=16, image_size=[32, 32], patch_size=[3, 3], patch_stride=[4, 4], patch_padding=[1, 1],
        depths=[1, 1], num_heads=[2, 4], embed_dim_multiplier=2.0, num_query_pool=1, query_stride=[2, 2],
        masked_unit_size=[4, 4], masked_unit_attention=[True, False],
    ),
    "swin": image("Swin", **WINDOWS),
    "swinv2": image("Swinv2", **WINDOWS),
    "pvt": image(
        "Pvt", image_size=32, hidden_sizes=[8, 16], depths=[1, 1], num_encoder_blocks=2, num_attention_heads=[1, 2],
        sequence_reduction_ratios=[4, 1], patch_sizes=[4, 2], strides=[4, 2], mlp_ratios=[2, 2],
    ),
    "pvt_v2": image(
        "PvtV2", image_size=32, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4],
    ),
    "segformer": Entry(
        "SegformerForSemanticSegmentation",
        {**STAGES, "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 16},
        of_size(pixels, 64),
    ),
    "levit": image(
        "Levit", 64, image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 3, 4], depths=[1, 1, 1],
        key_dim=[8, 8, 8], down_ops=[["Subsample", 8, 2, 2, 2, 2], ["Subsample", 8, 3, 2, 2, 2]],
    ),
    "mobilevit": image(
        "MobileViT", 64, image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=4,
    ),
    "cvt": image("Cvt", 64, embed_dim=[8, 16, 32], num_heads=[1, 2, 4], depth=[1, 2, 3]),
    "poolformer": image("PoolFormer", 64, **STAGES),
    "focalnet": image("FocalNet", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], focal_levels=[2, 2],
                      focal_windows=[3, 3], use_conv_embed=False),
    "convnext": image("ConvNext", 64, **STAGES),
    "convnextv2": image("ConvNextV2", 64, **STAGES),
    "resnet": image("ResNet", 64, **STAGES, embedding_size=8),
    "regnet": image("RegNet", 64, **STAGES, embedding_size=8, groups_width=8),
    "efficientnet": image("EfficientNet", 64, image_size=64, width_coefficient=0.25, depth_coefficient=0.3,
                          hidden_dim=320),
    "mobilenet_v2": image("MobileNetV2", 64, image_size=64, depth_multiplier=0.35),
    "siglip_vision": Entry("SiglipVisionModel", VIT, of_size(pixels, 32)),
}  # fmt: skip
