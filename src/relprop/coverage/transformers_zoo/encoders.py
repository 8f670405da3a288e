"""Encoders of text."""

from __future__ import annotations

from .entry import SIZES, VOCABULARY, Entry, sentences, tokens

HEAD = "ForSequenceClassification"


def encoder(name: str, **config: object) -> Entry:
    """An encoder with a classifier."""
    return Entry(name + HEAD, {**SIZES, **config}, sentences)


ENTRIES = {
    "bert": encoder("Bert"),
    "roberta": encoder("Roberta", max_position_embeddings=66),
    "xlm-roberta": encoder("XLMRoberta", max_position_embeddings=66),
    "camembert": encoder("Camembert", max_position_embeddings=66),
    "distilbert": encoder("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "electra": encoder("Electra", embedding_size=16),
    "albert": encoder("Albert", embedding_size=16),
    "deberta": encoder("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False),
    "deberta-v2": encoder(
        "DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4, share_att_key=True,
        norm_rel_ebd="layer_norm", position_biased_input=False,
    ),
    "mpnet": encoder("MPNet", max_position_embeddings=66),
    "ernie": encoder("Ernie"),
    "megatron-bert": encoder("MegatronBert"),
    "rembert": encoder("RemBert", input_embedding_size=16, output_embedding_size=16),
    "roformer": encoder("RoFormer", embedding_size=32),
    "modernbert": encoder(
        "ModernBert", global_attn_every_n_layers=2, local_attention=4, pad_token_id=0, eos_token_id=1, bos_token_id=2,
        cls_token_id=3, sep_token_id=4,
    ),
    "layoutlm": encoder("LayoutLM", max_2d_position_embeddings=64),
    "convbert": encoder("ConvBert", embedding_size=16, head_ratio=2, conv_kernel_size=3),
    "mobilebert": encoder(
        "MobileBert", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16, num_feedforward_networks=2
    ),
    "squeezebert": encoder("SqueezeBert", embedding_size=32),
    "nystromformer": Entry(  # its landmarks take no mask
        "Nystromformer" + HEAD,
        {**SIZES, "num_landmarks": 5, "segment_means_seq_len": 10, "conv_kernel_size": 3},
        tokens,
    ),
    "fnet": Entry("FNet" + HEAD, SIZES, tokens),
    "xlnet": Entry(
        "XLNet" + HEAD, {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, sentences
    ),
    "funnel": Entry(
        "Funnel" + HEAD,
        {
            "vocab_size": VOCABULARY, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
        sentences,
    ),
    "longformer": encoder("Longformer", attention_window=[4, 4], max_position_embeddings=66, pad_token_id=1),
    "big_bird": encoder("BigBird", attention_type="original_full"),
}  # fmt: skip
