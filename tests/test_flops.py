"""Counted cost: FLOPs of one explanation relative to forward + gradient to the input, and what K targets add.

The counter of torch counts contractions (convolutions, matrix products, fused attention). In its terms a layer costs the
gradient 2: forward and transposed. ε and LRP-0 need no more. γ and z⁺ on inputs ≥ 0 need one more forward with other weights,
3 in all, if relevance arrives at positive outputs alone (z⁺: at any). On signed inputs, and γ where outputs of both signs
get relevance, both parts of the contributions are wanted forward and back: 4 in all, as for αβ. So the limits are 1, 1.5
and 2 times the gradient with 1 % for the rest, each for the share of the layers it holds for: the first layer sees signed
pixels, and the γ rule of a ResNet meets sums and logits of both signs behind its last convolutions.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

import relprop
from relprop.composites import Composite
from relprop.targets import Token

torchvision = pytest.importorskip("torchvision")

ONE, HALF_MORE, TWICE = 1.01, 1.51, 2.01
BOX = {"low": -3.0, "high": 3.0}
IMAGE_NETS = ("vgg16", "resnet50")
TRANSFORMERS = ("vit_b_16", "bert_base", "llama")

Subject = tuple[nn.Module, Any, Any, Callable[[Tensor], Tensor]]  # model, inputs, target, the target's score


def pixels(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 4 - 2


def tokens(length: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 100, (1, length), generator=torch.Generator().manual_seed(2))}


def first_class(y: Tensor) -> Tensor:
    return y[:, 0]


@functools.cache
def subject(name: str) -> Subject:
    """A model with random weights, small where the ratio stays: 4 of 12 equal blocks, small images, few words."""
    torch.manual_seed(0)
    if name.startswith("vgg16"):
        return torchvision.models.vgg16().eval(), pixels(224 if name == "vgg16_224" else 64), 0, first_class
    if name == "resnet50":
        return torchvision.models.resnet50().eval(), pixels(64), 0, first_class
    if name == "vit_b_16":
        made = torchvision.models.VisionTransformer(64, 16, 4, 12, 768, 3072).eval()
        nn.init.normal_(made.heads.head.weight)  # torchvision begins with zeros
        return made, pixels(64), 0, first_class
    transformers = pytest.importorskip("transformers")
    if name == "bert_base":
        config = transformers.BertConfig(vocab_size=100, num_hidden_layers=4, attn_implementation="sdpa")
        return transformers.BertForSequenceClassification(config).eval(), tokens(32), 0, first_class
    # long beside its width: a quarter of the arithmetic is attention
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=512, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval(), tokens(384), Token(-1, 3), lambda y: y[:, -1, 3]


def run_model(model: nn.Module, inputs: Any) -> Tensor:
    out = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return out if isinstance(out, Tensor) else out.logits


def counted(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@functools.cache
def costs(name: str) -> tuple[int, int]:
    """FLOPs of the forward pass, and of forward + gradient of the score to the input (of tokens: their embeddings)."""
    model, inputs, _, score = subject(name)
    model.requires_grad_(False)
    leaves: list[Tensor] = []

    def leaf(y: Tensor) -> Tensor:
        leaves.append(y.detach().requires_grad_())
        return leaves[-1]

    if isinstance(inputs, dict):
        hook = model.get_input_embeddings().register_forward_hook(lambda m, a, y: leaf(y))
    else:
        hook = model.register_forward_pre_hook(lambda m, a: (leaf(a[0]),))
    scores: list[Tensor] = []
    forward = counted(lambda: scores.append(score(run_model(model, inputs)).sum()))
    backward = counted(scores[0].backward)
    hook.remove()
    assert leaves[0].grad is not None
    return forward, forward + backward


@functools.cache
def explainer(name: str, composite: str, **options: Any) -> relprop.Explainer:
    model, inputs, _, _ = subject(name)
    model.requires_grad_(False)
    return relprop.Explainer(model, inputs, composite, **options)


def ratio(name: str, composite: str, **options: Any) -> float:
    """FLOPs of one explanation / FLOPs of forward + gradient; the explainer is ready."""
    _, inputs, target, _ = subject(name)
    explain = explainer(name, composite, **options)
    return counted(lambda: explain(inputs, target)) / costs(name)[1]


def share(name: str, chosen: Callable[[str, Tensor], bool]) -> float:
    """The share of a model's layers' FLOPs in those chosen by their name and input."""
    model, inputs, _, _ = subject(name)
    total: dict[bool, float] = {True: 0.0, False: 0.0}

    def count(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            total[chosen(path, args[0])] += 2.0 * y.numel() * module.weight[0].numel()

        return hook

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [m.register_forward_hook(count(n)) for n, m in layers]
    with torch.no_grad():
        run_model(model, inputs)
    for h in hooks:
        h.remove()
    assert 2 * sum(total.values()) == pytest.approx(costs(name)[1], rel=1e-6)  # it has no other arithmetic
    return total[True] / sum(total.values())


def signed_input(path: str, a: Tensor) -> bool:
    return bool((a < 0).any())


def signed(path: str, a: Tensor) -> bool:
    """Layers whose input, or whose outputs with relevance, have both signs: before a sum, and logits."""
    return signed_input(path, a) or path.endswith(("conv3", "downsample.0", "fc", "classifier.6"))


# ε and LRP-0, and recipes of transformers: the gradient's arithmetic


@pytest.mark.parametrize("composite", ["lrp_zero", "epsilon"])
@pytest.mark.parametrize("name", IMAGE_NETS)
def test_zero_and_epsilon_cost_the_gradient(name: str, composite: str) -> None:
    assert ratio(name, composite) <= ONE


@pytest.mark.parametrize("composite", ["lrp_zero", "epsilon", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_recipes_of_transformers_cost_the_gradient(name: str, composite: str) -> None:
    assert ratio(name, composite) <= ONE


# γ, z⁺ and αβ


def test_gamma_costs_half_the_gradient_more() -> None:
    """VGG-16, where every convolution but the first has inputs ≥ 0 and a ReLU behind it."""
    part = share("vgg16", signed)
    assert part < 0.01
    assert ratio("vgg16", "gamma") <= (1 - part) * HALF_MORE + part * TWICE


def test_gamma_costs_twice_the_gradient_only_where_outputs_of_both_signs_have_relevance() -> None:
    part = share("resnet50", signed)
    assert 0.2 < part < 0.5
    assert ratio("resnet50", "gamma") <= (1 - part) * HALF_MORE + part * TWICE


@pytest.mark.parametrize("name", IMAGE_NETS)
def test_z_plus_costs_half_the_gradient_more(name: str) -> None:
    part = share(name, signed_input)
    assert part < 0.05
    assert ratio(name, "z_plus") <= (1 - part) * HALF_MORE + part * TWICE


@pytest.mark.parametrize("name", IMAGE_NETS)
def test_alpha_beta_costs_twice_the_gradient(name: str) -> None:
    assert ratio(name, "alpha_beta") <= TWICE


@pytest.mark.parametrize("composite", ["gamma", "alpha_beta", "z_plus"])
def test_rules_that_tell_signs_apart_cost_twice_the_gradient_on_signed_activations(composite: str) -> None:
    """In a vision transformer every layer has signed inputs."""
    assert ratio("vit_b_16", composite) <= TWICE


@pytest.mark.parametrize("composite", ["epsilon_gamma_box", "montavon2019"])
def test_recipes_of_the_chapter(composite: str) -> None:
    assert ratio("vgg16_224", composite, **BOX) <= 1.55


@pytest.mark.parametrize("composite", ["epsilon_gamma_box", "z_plus", "alpha_beta"])
def test_the_ledger_needs_no_arithmetic_of_layers(composite: str) -> None:
    _, inputs, target, _ = subject("vgg16")
    explain = explainer("vgg16", composite, **(BOX if composite == "epsilon_gamma_box" else {}))
    assert counted(lambda: explain(inputs, target, ledger=True)) == counted(lambda: explain(inputs, target))


# K targets


@pytest.mark.parametrize(("name", "composite"), [("resnet50", "epsilon"), ("vit_b_16", "cp_lrp")])
def test_targets_share_one_forward_and_cost_one_backward_each(name: str, composite: str) -> None:
    _, inputs, _, _ = subject(name)
    forward, both = costs(name)
    explain = explainer(name, composite)
    for k in (1, 2, 3):
        assert counted(lambda k=k: explain(inputs, list(range(k)))) == forward + k * (both - forward)


@pytest.mark.parametrize("composite", ["gamma", "z_plus", "alpha_beta"])
def test_other_rules_repeat_no_forward_for_further_targets(composite: str) -> None:
    _, inputs, _, _ = subject("resnet50")
    explain, forward = explainer("resnet50", composite), costs("resnet50")[0]
    one, two, four = (counted(lambda k=k: explain(inputs, list(range(k)))) for k in (1, 2, 4))
    assert two - one <= one - forward
    assert four - two == 2 * (two - one)


def test_more_samples_cost_in_proportion() -> None:
    _, inputs, _, _ = subject("resnet50")
    explain = explainer("resnet50", "epsilon")
    explain(torch.cat([inputs] * 3), 0)  # whether the graph fits is asked once a batch size
    assert counted(lambda: explain(torch.cat([inputs] * 3), 0)) == 3 * counted(lambda: explain(inputs, 0))


# Nothing of the size of a weight is made again at every call

HEAVY = ("convolution", "convolution_backward", "mkldnn_convolution", "mm", "addmm", "bmm", "baddbmm")
PREPARED: dict[str, dict[str, Any]] = {
    "gamma": {},
    "z_plus": {},
    "alpha_beta": {},
    "w_square": {},
    "flat": {},
    "binder2016": {"power": 2},
    "epsilon_gamma_box": {"low": -4.0, "high": 4.0},
    "epsilon": {},
}


class Making(TorchDispatchMode):
    """Notes every op but contractions that makes a tensor in new memory with a weight's shape, transposed or not."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.shapes = {s for w in model.parameters() if w.dim() > 1 for s in (tuple(w.shape), tuple(w.mT.shape))}
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_flatten((args, kwargs or {}))[0]
        before = {t.untyped_storage().data_ptr() for t in given if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_flatten(out)[0]:
            fresh = isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in before
            if fresh and tuple(t.shape) in self.shapes and func.overloadpacket.__name__ not in HEAVY:
                self.made.append(f"{func} {tuple(t.shape)}")
        return out


def odd() -> tuple[nn.Module, Tensor]:
    """A network none of whose values has the shape of a weight: signed and rectified inputs, BatchNorm, a skip."""
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(7)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    front = nn.Sequential(nn.Conv2d(3, 7, 3), norm, nn.ReLU(), nn.Conv2d(7, 11, 3, bias=False), nn.Tanh())
    back = nn.Sequential(nn.Flatten(), nn.Linear(11 * 25, 37), nn.ReLU(), nn.Linear(37, 41), nn.Linear(41, 19))
    return nn.Sequential(front, back).eval(), torch.randn(2, 3, 9, 9)


def explain_and_watch(model: nn.Module, x: Tensor, composite: str, **options: Any) -> list[str]:
    """What the second call of an explainer makes in the shape of a weight."""
    explain = relprop.Explainer(model, x, composite, **options)
    explain(x, 0)
    with Making(model) as watch:
        explain(x, 0)
    return watch.made


@pytest.mark.parametrize("composite", PREPARED)
def test_no_weight_is_transformed_again_at_every_call(composite: str) -> None:
    assert explain_and_watch(*odd(), composite, **PREPARED[composite]) == []


@pytest.mark.parametrize("composite", ["epsilon", "z_plus"])
def test_no_weight_is_cast_again_at_every_call(composite: str) -> None:
    """A model in float32 and one in bfloat16, with heavy ops in bfloat16."""
    model, x = odd()
    assert explain_and_watch(model, x, composite, precision="bf16") == []
    assert explain_and_watch(model.bfloat16(), x.bfloat16(), composite, precision="bf16") == []


def test_the_watcher_sees_what_makes_a_weight() -> None:
    model, _ = odd()
    w = model[1][1].weight
    with Making(model) as watch:
        w.clamp(min=0), w.mT.contiguous(), w.bfloat16(), torch.ones_like(w)
        w.mT, w.detach(), w @ w.mT, w[0].clone()  # views, products and other shapes are none
    assert len(watch.made) == 4


# What was prepared follows the model


def by_optimizer(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model(x).square().sum().backward()
    optimizer.step()


def by_state(model: nn.Module, x: Tensor) -> None:
    model.load_state_dict({n: w * 0.7 if w.dim() > 1 else w + 0.1 for n, w in model.state_dict().items()})


def by_writing(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        model[1][1].weight[3:7].mul_(-2.0)


def by_data(model: nn.Module, x: Tensor) -> None:
    model[1][3].weight.data.neg_()


def by_replacing(model: nn.Module, x: Tensor) -> None:
    model[1][4] = nn.Linear(41, 19)


CHANGES = (by_optimizer, by_state, by_writing, by_data, by_replacing)


LAYERS = ("0.0", "0.3", "1.1", "1.3", "1.4")
RULES: list[Any] = ["gamma", "z_plus", partial(relprop.rules.power, power=2), "alpha_beta", "w_square"]


@pytest.mark.parametrize("shift", [0, 2, 3])
def test_prepared_weights_follow_the_model(shift: int) -> None:
    """Each layer with another rule, so that one explainer holds weights prepared in every way."""
    model, x = odd()
    rotated = RULES[shift:] + RULES[:shift]
    recipe = Composite(list(zip(LAYERS, rotated, strict=True)))
    explain = relprop.Explainer(model, x, recipe)
    before = explain(x, 0).relevance
    for change in CHANGES:
        change(model, x)
        now = explain(x, 0).relevance
        expected = relprop.explain(copy.deepcopy(model), x, 0, recipe).relevance
        torch.testing.assert_close(now, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
        assert not torch.allclose(now, before, rtol=1e-3), change.__name__
        before = now
