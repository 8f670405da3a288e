"""Models of sound."""

from __future__ import annotations

import torch
from torch import Tensor

from ..subject import SETTLING
from .entry import SIZES, Entry, ids, waves

HEAD = "ForSequenceClassification"
WAVES = {
    **SIZES, "conv_dim": [16, 16, 16], "conv_stride": [5, 4, 4], "conv_kernel": [10, 4, 4],
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16, "pad_token_id": 0,
}  # fmt: skip


def speech() -> dict[str, Tensor]:
    """A mel spectrogram, and the beginning of its transcript."""
    return {"input_features": torch.randn(SETTLING, 16, 40), "decoder_input_ids": ids()[:, :6]}


def spectrogram() -> dict[str, Tensor]:
    """A mel spectrogram, time first."""
    return {"input_values": torch.randn(SETTLING, 32, 16)}


def wave(name: str, head: str = HEAD, **config: object) -> Entry:
    """A model of waveforms."""
    return Entry(name + head, {**WAVES, **config}, waves)


ENTRIES = {
    "wav2vec2": wave("Wav2Vec2"),
    "wav2vec2-ctc": wave("Wav2Vec2", "ForCTC"),
    "hubert": wave("Hubert"),
    "wavlm": wave("WavLM", num_buckets=8, max_bucket_distance=16),
    "unispeech": wave("UniSpeech", codevector_dim=16, num_codevectors_per_group=4),
    "data2vec-audio": wave("Data2VecAudio", num_conv_pos_embeddings=2, conv_pos_kernel_size=3),
    "sew": wave("SEW", squeeze_factor=2),
    "whisper": Entry(
        "WhisperForConditionalGeneration",
        {
            "vocab_size": 99, "num_mel_bins": 16, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
            "max_source_positions": 20, "max_target_positions": 64, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2, "decoder_start_token_id": 3, "begin_suppress_tokens": None, "suppress_tokens": None,
        },
        speech,
    ),
    "audio-spectrogram-transformer": Entry(
        "ASTForAudioClassification",
        {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
            "patch_size": 8, "frequency_stride": 4, "time_stride": 4, "max_length": 32, "num_mel_bins": 16,
        },
        spectrogram,
    ),
}  # fmt: skip
