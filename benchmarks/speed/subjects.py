"""The models that are explained: random weights, one floating point input, logits of shape (samples, classes)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LOW, HIGH = -2.2, 2.7  # the box of zᴮ rules: what normalized images can be; the random ones are clamped into it
IMAGES = ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box", "montavon2019")
TOKENS = ("epsilon", "attnlrp", "cp_lrp")


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode, its input, and the explained class of each sample (the largest logit)."""

    name: str
    model: nn.Module
    x: Tensor
    labels: Tensor
    quick: bool = False

    @property
    def setting(self) -> str:
        """What was explained: parameters, shape of the input, type."""
        count = sum(p.numel() for p in self.model.parameters())
        size = f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e3:.1f} k"
        return (
            f"{size} parameters, input {'×'.join(map(str, self.x.shape))}, {str(self.x.dtype).removeprefix('torch.')}"
        )


@dataclass(frozen=True)
class Kind:
    """How a subject is made and what is measured on it.

    `build(quick)` returns a model and its input. `recipes` are relprop's. `devices` are those it is meant for.
    `family` names the transformers module that lxt patches.
    """

    build: Callable[[bool], tuple[nn.Module, Tensor]]
    recipes: tuple[str, ...]
    title: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    family: str = ""


class Tokens(nn.Module):
    """A transformers model from embedded tokens to the logits of its last position (or of its classifier)."""

    def __init__(self, model: nn.Module, **options: object) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, embedded: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs_embeds=embedded, **self.options).logits
        return logits[:, -1] if logits.dim() == 3 else logits


def _images(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 3, size, size).clamp(LOW, HIGH)


def vgg16(quick: bool) -> tuple[nn.Module, Tensor]:
    from torchvision import models

    return models.vgg16(), _images(1, 64) if quick else _images(8, 224)


def resnet50(quick: bool) -> tuple[nn.Module, Tensor]:
    from torchvision import models

    return models.resnet50(), _images(2, 64) if quick else _images(8, 224)


def vit_b_16(quick: bool) -> tuple[nn.Module, Tensor]:
    from torchvision import models

    size = 64 if quick else 224
    model = models.vit_b_16(image_size=size)
    nn.init.normal_(model.heads.head.weight, std=model.hidden_dim**-0.5)  # torchvision's are zeros: no logit at all
    return model, _images(1 if quick else 4, size)


def cnn(quick: bool) -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 8 * 8, 10),
    )  # fmt: skip
    return model, _images(1, 32)


def linear50(quick: bool) -> tuple[nn.Module, Tensor]:
    layers = [layer for _ in range(50) for layer in (nn.Linear(32, 32, bias=False), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight)  # the default's variance would vanish over 50 layers
    return nn.Sequential(*layers[:-1]), torch.randn(1, 32)


def bert(quick: bool) -> tuple[nn.Module, Tensor]:
    import transformers

    config = transformers.BertConfig(num_hidden_layers=2 if quick else 12)
    shape = (1, 32) if quick else (4, 128)
    return Tokens(transformers.BertForSequenceClassification(config)), torch.randn(*shape, config.hidden_size)


def _llama(shape: tuple[int, int], dtype: torch.dtype = torch.float32, **sizes: int) -> tuple[nn.Module, Tensor]:
    import transformers

    config = transformers.LlamaConfig(max_position_embeddings=shape[1], tie_word_embeddings=True, **sizes)
    model = transformers.LlamaForCausalLM(config).to(dtype)
    return Tokens(model, use_cache=False, logits_to_keep=1), torch.randn(*shape, config.hidden_size).to(dtype)


def llama(quick: bool) -> tuple[nn.Module, Tensor]:
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 4}
    return _llama((1, 64) if quick else (4, 256), vocab_size=8192, num_hidden_layers=2 if quick else 4, **sizes)


def llama_small_bf16(quick: bool) -> tuple[nn.Module, Tensor]:
    """The shape of `llama_1b` at a fourth of its width and an eighth of its length: it runs without a GPU."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 2}
    layers, length = (2, 64) if quick else (8, 256)
    return _llama((1, length), torch.bfloat16, vocab_size=32_000, num_hidden_layers=layers, **sizes)


def llama_1b(quick: bool) -> tuple[nn.Module, Tensor]:
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8}
    layers, length = (4, 512) if quick else (16, 2048)
    return _llama((1, length), torch.bfloat16, vocab_size=128_256, num_hidden_layers=layers, **sizes)


VIT, BERT, LLAMA = (
    "torchvision.models.vision_transformer",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
)
KINDS: dict[str, Kind] = {
    "vgg16": Kind(vgg16, IMAGES, "VGG-16"),
    "resnet50": Kind(resnet50, IMAGES, "ResNet-50"),
    "vit_b_16": Kind(vit_b_16, TOKENS, "ViT-B/16", family=VIT),
    "bert": Kind(bert, TOKENS, "BERT-base", family=BERT),
    "llama": Kind(llama, TOKENS, "Llama, 4 layers", family=LLAMA),
    "llama_small_bf16": Kind(llama_small_bf16, TOKENS, "Llama in bfloat16, small", ("cpu",), LLAMA),
    "llama_1b": Kind(llama_1b, TOKENS, "Llama of 1.2 B parameters in bfloat16", ("cuda",), LLAMA),
    "linear50": Kind(linear50, ("epsilon",), "50 × (Linear(32) + ReLU)"),
    "cnn": Kind(cnn, IMAGES[:-1], "small CNN"),
}


def subject(name: str, device: str = "cpu", *, quick: bool = False) -> Subject:
    """The model of this name with seeded weights and inputs, ready to be explained.

    BatchNorm takes its statistics from the input, so that activations keep their scale with depth. Other biases are
    as initialized: zero in VGG-16, ResNet-50 and the transformers.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model, x = KINDS[name].build(quick)
    model.eval()
    _settle(model, x)
    with torch.no_grad():
        labels = model(x).argmax(1)
    return Subject(name, model, x, labels, quick)


def _settle(model: nn.Module, x: Tensor) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.momentum = 1.0
        m.train()
    if norms:
        with torch.no_grad():
            model(x)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
        m.eval()
