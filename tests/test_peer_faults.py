"""What other libraries get wrong on convolutional and dense networks, each a test here. Without biases ΣR is the score."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dense
import relprop
from checks import check_same_map, check_sums_to
from nets import Net, convolutional, gradient_times_input, images, randomized, rows
from relprop import composites, show
from relprop.composites import Composite

ABSOLUTE = {"epsilon": 0.1, "epsilon_mode": "absolute"}


def rule(layer: Callable[[Tensor], Tensor], a: Tensor, R: Tensor) -> Tensor:
    """LRP-ε of one affine layer by explicit sums."""
    return dense.epsilon(dense.dense(layer, tuple(a.shape[1:])), a, R, **ABSOLUTE)


def winner(output: Tensor) -> Tensor:
    """The initial relevance of the arg-max."""
    return output * (output == output.max(1, keepdim=True).values)


def check_conserves(model: nn.Module, x: Tensor, composite: str, rtol: float, **options: object) -> None:
    """ΣR / score = 1 for each sample, and the ledger agrees."""
    e = relprop.explain(model, x, composite=composite, ledger=True, **options)
    check_sums_to(e.relevance.flatten(1).sum(1), e.score, rtol=rtol)
    assert e.ledger.closes()


# zennit: n residual additions in forward give 2ⁿ; captum: 3e13


class Block(nn.Module):
    """x + f(x) in forward, as in torchvision's ResNets."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.bn1(self.conv1(x))))
        out += x
        return F.relu(out)


def residual(blocks: int) -> nn.Module:
    torch.manual_seed(2)
    stem, head = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Linear(4, 5, bias=False)
    body = [Block(4) for _ in range(blocks)]
    return nn.Sequential(stem, nn.ReLU(), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double().eval()


CASES = [(1, "epsilon"), (4, "epsilon"), (4, "lrp_zero"), (2, "gamma")]


@pytest.mark.parametrize(("blocks", "composite"), CASES)
def test_residual_blocks_conserve(blocks: int, composite: str) -> None:
    # the γ rule's stabilizer keeps up to ε = 1e-6 of each layer
    check_conserves(residual(blocks), images(), composite, rtol=1e-9 if composite == "lrp_zero" else 1e-4)


def test_a_residual_map_is_the_one_of_its_sums() -> None:
    model, x = residual(2), images()
    e = relprop.explain(model, x, composite="lrp_zero")
    check_same_map(e.relevance, gradient_times_input(model, (x,))[0], rtol=1e-9)


# zennit: functional GELU 1.7, SiLU 2.2; LayerNorm, GroupNorm, InstanceNorm 0; autolrp: LRN 0.41 ... 1.45


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.mish], ids=lambda f: f.__name__)
def test_functional_activations_conserve(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(2)
    layers = {"f": nn.Linear(4, 8, bias=False), "g": nn.Linear(8, 8, bias=False), "h": nn.Linear(8, 3, bias=False)}
    model = Net(lambda m, x: m.h(function(m.g(function(m.f(x))))), **layers)
    check_conserves(model, rows(), "lrp_zero", rtol=1e-9)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm([4, 6, 6]), nn.LocalResponseNorm(3, k=2.0)],
    ids=lambda n: type(n).__name__,
)  # fmt: skip
def test_normalizations_conserve(norm: nn.Module) -> None:
    torch.manual_seed(2)
    stem, head = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.Linear(4, 5, bias=False)
    model = nn.Sequential(stem, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double()
    check_conserves(model, images(), "epsilon", rtol=1e-3, epsilon=1e-9)


# zennit: a shared layer keeps the sum and gives another map; x.mean((2, 3)) too


def test_a_shared_linear_layer() -> None:
    torch.manual_seed(2)
    model = Net(lambda m, x: m.v(F.relu(m.w(F.relu(m.w(x))))), w=nn.Linear(4, 4), v=nn.Linear(4, 3))
    x = rows()
    first = F.relu(model.w(x)).detach()
    second = F.relu(model.w(first)).detach()
    above = rule(model.v, second, winner(model.v(second).detach()))
    expected = rule(model.w, x, rule(model.w, first, above))
    check_same_map(relprop.explain(model, x, composite="epsilon", **ABSOLUTE).relevance, expected, rtol=1e-9)


def test_a_layer_shared_by_two_inputs() -> None:
    torch.manual_seed(2)
    model = Net(lambda m, a, b: m.w(a) + 2.0 * m.w(b), w=nn.Linear(4, 3))
    a, b = rows(), -rows().flip(0)
    e = relprop.explain(model, (a, b), composite="lrp_zero")
    for actual, expected in zip(e.relevance, gradient_times_input(model, (a, b)), strict=True):
        check_same_map(actual, expected, rtol=1e-9)


def test_a_mean_in_forward() -> None:
    model, x = Net(lambda m, x: x.mean((2, 3))), images()
    R = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.0]], dtype=torch.float64)
    z = x.mean((2, 3), keepdim=True)
    expected = x / 36 * (R[:, :, None, None] / (z + 0.1 * z.sign()))
    actual = relprop.explain(model, x, target=R, composite="epsilon").relevance
    check_same_map(actual, x / 36 * (R[:, :, None, None] / z), rtol=1e-4)
    check_same_map(relprop.explain(model, x, target=R, composite="epsilon", **ABSOLUTE).relevance, expected, rtol=1e-9)


# zennit: DenseNet raises; conv → relu → bn is merged; innvestigate: the merge forgets γ and squares ε


def test_batch_norm_in_front_of_relu_and_padded_convolution() -> None:
    torch.manual_seed(2)
    layers = {"conv": nn.Conv2d(2, 2, 3, padding=1), "norm": randomized(nn.BatchNorm2d(4)), "head": nn.Linear(4, 5)}
    model = Net(lambda m, x: m.head(F.relu(m.norm(torch.cat([x, m.conv(x)], 1))).mean((2, 3))), **layers)
    e = relprop.explain(model, images(), composite="lrp_zero", ledger=True)
    check_same_map(e.relevance, gradient_times_input(model, (images(),))[0], rtol=1e-9)
    assert e.ledger.closes()


def test_convolution_relu_batch_norm_is_not_merged() -> None:
    torch.manual_seed(2)
    conv, norm, head = nn.Conv2d(2, 4, 3), randomized(nn.BatchNorm2d(4)), nn.Linear(64, 5)
    model = nn.Sequential(conv, nn.ReLU(), norm, nn.Flatten(), head).double().eval()
    x = images()
    a = F.relu(conv(x)).detach()
    z = norm(a).detach()
    R = rule(head, z.flatten(1), winner(model(x).detach())).view_as(z)
    expected = rule(conv, x, rule(norm, a, R))
    check_same_map(relprop.explain(model, x, composite="epsilon", **ABSOLUTE).relevance, expected, rtol=1e-9)


def test_merging_batch_norm_knows_its_eps_and_gamma() -> None:
    torch.manual_seed(2)
    conv, norm, head = nn.Conv2d(2, 4, 3), randomized(nn.BatchNorm2d(4, eps=0.5)), nn.Linear(64, 5)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), head).double().eval()
    x = images()
    a = F.relu(norm(conv(x))).detach()
    R = rule(head, a.flatten(1), winner(model(x).detach())).view_as(a)

    def merged(x: Tensor) -> Tensor:  # γ (W x + b − μ) / √(σ² + ε) + β
        scale, per_channel = norm.weight / (norm.running_var + 0.5).sqrt(), (1, -1, 1, 1)
        return (conv(x) - norm.running_mean.view(per_channel)) * scale.view(per_channel) + norm.bias.view(per_channel)

    actual = relprop.explain(model, x, composite="epsilon", **ABSOLUTE).relevance
    check_same_map(actual, rule(merged, x, R), rtol=1e-9)


# zennit: "first" follows the order of registration; weight_norm and parametrize: no rule, silently


def test_the_first_layer_is_the_first_to_be_called() -> None:
    torch.manual_seed(2)
    model = Net(lambda m, x: m.last(F.relu(m.first(x))), last=nn.Linear(6, 3), first=nn.Linear(4, 6))
    explainer = relprop.Explainer(model, rows(), "epsilon_plus_flat")
    rules = {r["module"]: r["rule"] for r in explainer.rules if r["op"] == "linear"}
    assert rules == {"first": "flat", "last": "epsilon"}
    R = explainer(rows()).relevance
    check_same_map(R, R.mean(1, keepdim=True).expand_as(R), rtol=1e-9)  # ♭: every input the same


def test_adjacent_layers_are_those_that_follow_each_other_in_forward() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.head(F.relu(m.two(m.norm(F.relu(m.one(x))))))  # norm is registered after `two`, and follows `one`

    torch.manual_seed(2)
    norm = randomized(nn.BatchNorm1d(4))
    model = Net(forward, one=nn.Linear(4, 4), two=nn.Linear(4, 4), norm=norm, head=nn.Linear(4, 3))
    actual = relprop.explain(model, rows(), composite="lrp_zero").relevance
    check_same_map(actual, gradient_times_input(model, (rows(),))[0], rtol=1e-9)


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "z_plus"])
def test_rules_apply_to_parametrized_weights(composite: str) -> None:
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 5)).double()
    expected = relprop.explain(plain, images(), composite=composite).relevance
    for i in (0, 2, 4):
        nn.utils.parametrizations.weight_norm(plain[i])
    check_same_map(relprop.explain(plain, images(), composite=composite).relevance, expected, rtol=1e-9)


# zennit: merged weights in the state_dict, tied weights untied, training stops


def test_the_model_is_still_itself_and_trains() -> None:
    model = nn.Sequential(convolutional(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)).double().train()
    model[3].weight = model[1].weight
    before = {k: v.clone() for k, v in model.state_dict().items()}
    relprop.explain(model, images(), composite="epsilon")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert list(model.state_dict()) == list(before)
    assert model[3].weight is model[1].weight
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if n != "0.0.bias")


# zennit: an absolute ε takes the relevance of small inputs


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "epsilon_plus"])
def test_small_inputs_keep_their_relevance(composite: str) -> None:
    check_conserves(residual(1).float(), 1e-5 * images().float(), composite, rtol=1e-3)


# captum: rules are deleted after the first call; a bare nn.Linear gives gradient × logit


def test_a_users_rules_survive_the_first_call() -> None:
    composite = Composite([("0.*", "z_plus"), (composites.everything, "epsilon")])
    model = nn.Sequential(convolutional(), nn.Linear(5, 3).double())
    explainer = relprop.Explainer(model, images(), composite)
    table, first = str(explainer.rules), explainer(images()).relevance
    assert torch.equal(explainer(images()).relevance, first)
    assert str(explainer.rules) == table
    assert torch.equal(relprop.explain(model, images(), composite=composite).relevance, first)
    assert not torch.equal(relprop.explain(model, images(), composite="epsilon").relevance, first)


def test_a_bare_linear_layer() -> None:
    layer = nn.Linear(3, 2).double()
    layer.weight.data = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, -1.0]], dtype=torch.float64)
    layer.bias.data = torch.tensor([0.25, -4.0], dtype=torch.float64)
    e = relprop.explain(layer, torch.tensor([[2.0, 0.5, 4.0]]).double(), target=0, composite="lrp_zero", ledger=True)
    assert e.relevance.tolist() == [[2.0, -1.0, 2.0]]  # w x, not w x times the logit
    assert (e.score.item(), e.ledger.input.item(), e.ledger.bias.item()) == (3.25, 3.0, 0.25)


# innvestigate: heatmaps with flipped signs; a saved analyzer forgets its ε


def test_signs_are_those_of_the_relevance_also_in_pictures() -> None:
    R = torch.tensor([[-4.0, 1.0], [0.0, -0.5]])  # the largest in absolute value is negative
    picture = torch.as_tensor(show.heatmap(R)).int()
    red, blue = picture[..., 0], picture[..., 2]
    assert (red > blue).tolist() == [[False, True], [False, False]]
    assert (blue > red).tolist() == [[True, False], [False, True]]


def test_the_written_program_keeps_its_epsilon() -> None:
    model, x = convolutional(), images()
    code = relprop.Explainer(model, x, "epsilon", epsilon=0.125, epsilon_mode="absolute").code
    explainer = relprop.Explainer(model, x, "epsilon", epsilon=0.125, epsilon_mode="absolute")
    names: dict[str, object] = {"__name__": "written"}
    exec(compile(code, "written", "exec"), names)
    with torch.no_grad():
        relevance = names["program"](explainer.program.state_dict(), x)[3][0]  # type: ignore[operator]
    check_same_map(relevance, explainer(x).relevance, rtol=1e-12)
    default = relprop.explain(model, x, composite="epsilon").relevance
    assert (relevance - default).abs().max() > 1e-3 * default.abs().max()


# autolrp: biases are split off by magnitude


def test_the_epsilon_rule_shares_by_contribution_and_sign() -> None:
    layer = nn.Linear(3, 1).double()
    layer.weight.data = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    layer.bias.data = torch.tensor([-1.0], dtype=torch.float64)
    x, R = torch.tensor([[2.0, 1.5, 4.0]], dtype=torch.float64), torch.tensor([[6.0]], dtype=torch.float64)
    # contributions 2, −3, 2 and the bias −1: z = 0; with z + ε = 0.5 each gets 12 times its contribution
    e = relprop.explain(layer, x, target=R, composite="epsilon", epsilon=0.5, epsilon_mode="absolute", ledger=True)
    assert e.relevance.tolist() == [[24.0, -36.0, 24.0]]
    assert (e.ledger.input.item(), e.ledger.bias.item(), e.ledger.epsilon.item()) == (12.0, -12.0, 6.0)
