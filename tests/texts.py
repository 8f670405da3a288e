"""Tiny tokenizers and language models: two that can be computed by hand, and two of Hugging Face's kinds."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the movie was not bad play ##ing good , . ! <"
TEXTS = ("the capital of France is Paris", "the capital of Italy is Rome", "it was not bad")


@functools.cache
def wordpiece() -> Any:
    vocab = {t: i for i, t in enumerate(WORDS.split())}
    t = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=t, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@functools.cache
def bpe() -> Any:
    """Byte-level, as GPT-2's and Llama 3's: no padding token, no special token around a text."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
        special_tokens=["<|end|>"],
    )  # fmt: skip
    t.train_from_iterator([f"{text} {text}" for text in TEXTS for _ in range(9)], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=t, eos_token="<|end|>", model_input_names=["input_ids", "attention_mask"]
    )


class Bag(nn.Module):
    """A classifier by hand: z_c = Σ_t E[t] · w_c over the tokens that are not padding. So R_t = E[t] · w_c."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, 4), nn.Linear(4, 2, bias=False)
        self.config = SimpleNamespace(id2label={0: "bad", 1: "good"})

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        x = x if attention_mask is None else x * attention_mask[..., None]
        return {"hidden": x, "logits": self.head(x.sum(1))}

    def worth(self, ids: list[int], c: int) -> Tensor:
        return (self.embed.weight[ids] @ self.head.weight[c]).detach()


class Running(nn.Module):
    """A causal model by hand: the scores at position s are those of the sum of the tokens up to s."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(tokens, 4), nn.Linear(4, tokens, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor]:
        return (self.head(self.embed(input_ids).cumsum(1)),)

    def worth(self, ids: list[int], token: int) -> Tensor:
        return (self.embed.weight[ids] @ self.head.weight[token]).detach()


def bert(kind: str = "BertForSequenceClassification", **settings: Any) -> Any:
    labels = {"id2label": {0: "bad", 1: "neutral", 2: "good"}, "label2id": {"bad": 0, "neutral": 1, "good": 2}}
    config = transformers.BertConfig(
        vocab_size=len(wordpiece()), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        initializer_range=0.3, **labels, **settings,
    )  # fmt: skip
    return getattr(transformers, kind)(config).double()


def gpt2(layers: int = 1) -> Any:
    config = transformers.GPT2Config(
        vocab_size=len(bpe()), n_embd=16, n_layer=layers, n_head=4, n_positions=40, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).double()
