"""Causal language models: attention, mixtures of experts, state spaces and recurrences."""

from __future__ import annotations

from .entry import SIZES, Entry, tokens

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**SIZES, **SPECIAL, "num_key_value_heads": 2, "head_dim": 8}
GPT = {"vocab_size": 99, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **SPECIAL}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def decoder(name: str, **config: object) -> Entry:
    """A language model with grouped queries where it has them."""
    return Entry(name + "ForCausalLM", {**GROUPED, **config}, tokens)


def gpt(name: str, **config: object) -> Entry:
    """A language model whose configuration speaks the names of GPT-2."""
    return Entry(name, {**GPT, **config}, tokens)


DENSE = {
    "gpt2": gpt("GPT2LMHeadModel"),
    "gpt_bigcode": gpt("GPTBigCodeForCausalLM"),
    "gptj": gpt("GPTJForCausalLM", rotary_dim=4),
    "codegen": gpt("CodeGenForCausalLM", rotary_dim=4, n_ctx=64),
    "gpt_neo": decoder("GPTNeo", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=4),
    "gpt_neox": decoder("GPTNeoX"),
    "opt": decoder("OPT", ffn_dim=64, word_embed_proj_dim=32),
    "bloom": decoder("Bloom", n_layer=2, n_head=4),
    "mpt": decoder("Mpt", d_model=32, n_layers=2, n_heads=4, max_seq_len=64, expansion_ratio=2),
    "falcon": gpt(
        "FalconForCausalLM",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        new_decoder_architecture=True,
        num_kv_heads=2,
        alibi=False,
    ),
    "xglm": decoder("XGLM", d_model=32, num_layers=2, attention_heads=4, ffn_dim=64),
    "biogpt": decoder("BioGpt"),
    "llama": decoder("Llama"),
    "mistral": decoder("Mistral", sliding_window=4),
    "qwen2": decoder("Qwen2"),
    "qwen3": decoder("Qwen3"),
    "gemma": decoder("Gemma"),
    "gemma2": decoder("Gemma2", sliding_window=4, query_pre_attn_scalar=8),
    "gemma3": Entry("Gemma3ForCausalLM", {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 8}, tokens),
    "phi": decoder("Phi"),
    "phi3": decoder("Phi3"),
    "olmo": decoder("Olmo"),
    "olmo2": decoder("Olmo2"),
    "stablelm": decoder("StableLm"),
    "starcoder2": decoder("Starcoder2"),
    "cohere": decoder("Cohere"),
    "granite": decoder("Granite"),
    "glm": decoder("Glm"),
    "smollm3": decoder("SmolLM3"),
    "nemotron": decoder("Nemotron"),
}

MIXTURES = {
    "mixtral": decoder("Mixtral", **EXPERTS),
    "qwen2_moe": decoder("Qwen2Moe", **EXPERTS, shared_expert_intermediate_size=32),
    "qwen3_moe": decoder("Qwen3Moe", **EXPERTS),
    "olmoe": decoder("Olmoe", **EXPERTS),
    "gpt_oss": decoder("GptOss", **EXPERTS),
    "phimoe": decoder("Phimoe", **EXPERTS),
    "granitemoe": decoder("GraniteMoe", **EXPERTS),
    "deepseek_v3": decoder(
        "DeepseekV3", **EXPERTS, n_routed_experts=4, n_group=1, topk_group=1, kv_lora_rank=8, q_lora_rank=16,
        qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=1, head_dim=4,
        num_key_value_heads=4,
    ),
}  # fmt: skip

STATES = {
    "mamba": decoder("Mamba", state_size=4, time_step_rank=4),
    "mamba2": decoder("Mamba2", state_size=4, num_heads=8, n_groups=1, chunk_size=4),
    "falcon_mamba": decoder("FalconMamba", state_size=4, time_step_rank=4),
    "rwkv": decoder("Rwkv", attention_hidden_size=32),
    "recurrent_gemma": decoder("RecurrentGemma", lru_width=32, attention_window_size=8, num_hidden_layers=3),
    "jamba": decoder(
        "Jamba", **EXPERTS, num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        expert_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False,
    ),
    "zamba": decoder(
        "Zamba", num_hidden_layers=5, mamba_d_state=4, mamba_dt_rank=4, n_mamba_heads=1, use_mamba_kernels=False,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid", "mamba"], num_key_value_heads=4,
    ),
    "bamba": decoder(
        "Bamba", attn_layer_indices=[1], mamba_n_heads=8, mamba_d_state=4, mamba_d_head=8, mamba_chunk_size=4,
        mamba_n_groups=1,
    ),
    "xlstm": decoder("xLSTM", hidden_size=64, num_blocks=2, num_heads=4, qk_dim_factor=1.0, chunk_size=4),
}  # fmt: skip

ENTRIES = DENSE | MIXTURES | STATES
