"""Encoder-decoder models of text."""

from __future__ import annotations

from .entry import VOCABULARY, Entry, translation

HEAD = "ForConditionalGeneration"
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
BART = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    **SPECIAL,
}  # fmt: skip
T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, **SPECIAL,
}  # fmt: skip


def bart(name: str, **config: object) -> Entry:
    """One whose configuration speaks the names of BART."""
    return Entry(name, {**BART, **config}, translation)


def t5(name: str, **config: object) -> Entry:
    """One whose configuration speaks the names of T5."""
    return Entry(name + HEAD, {**T5, **config}, translation)


ENTRIES = {
    "t5": t5("T5"),
    "mt5": t5("MT5", feed_forward_proj="gated-gelu"),
    "umt5": t5("UMT5"),
    "switch_transformers": t5("SwitchTransformers", num_experts=4, num_sparse_encoder_layers=1, expert_capacity=64),
    "bart": bart("Bart" + HEAD),
    "mbart": bart("MBart" + HEAD),
    "pegasus": bart("Pegasus" + HEAD),
    "marian": bart("MarianMTModel", decoder_vocab_size=VOCABULARY),
    "blenderbot": bart("Blenderbot" + HEAD),
    "m2m_100": bart("M2M100" + HEAD),
    "led": bart(
        "LED" + HEAD, attention_window=[4, 4], max_encoder_position_embeddings=64, max_decoder_position_embeddings=64
    ),
    "prophetnet": Entry(
        "ProphetNet" + HEAD,
        {
            "vocab_size": VOCABULARY, "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64, "max_position_embeddings": 64, "num_buckets": 8, "ngram": 2, **SPECIAL,
        },
        translation,
    ),
}  # fmt: skip
