"""Local response normalization: every spelling is one op; its Taylor rules equal the paper's sums over neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from checks import check_same_map
from lrn_sums import by_double_sums, messages
from nets import Net
from relprop import composites, ops, rules
from relprop.errors import CompositeError, RuleError
from relprop.rules import Call
from relprop.rules.lrn import largest_second_order

RTOL = 1e-9


def activations(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_rule(x: Tensor, R: Tensor, *args: float, order: int = 1) -> Tensor:
    y = ops.local_response_norm(x, *args)
    f = Call("local_response_norm", (x, *args), y, ledger=True)
    out = rules.lrn_taylor(R, f, order=order)
    assert not f.kept
    return out


CASES = {
    "the paper's": (2, 2, 0.1, 0.75, 1.0),
    "even window": (2, 1, 0.3, 0.75, 1.0),
    "even window, the other way": (1, 2, 0.3, 0.75, 2.0),
    "wider than the channels": (9, 9, 0.2, 0.5, 1.0),
    "one neighbour": (1, 0, 1.0, 1.5, 0.5),
    "strong": (3, 3, 40.0, 0.75, 1.0),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_taylor_rule_is_the_papers_sum_over_neighbours(case: str, order: int) -> None:
    x, R = activations(2, 6, 2, 2), activations(2, 6, 2, 2, seed=1)  # negative activations and relevance too
    expected = by_double_sums(x, R, *CASES[case], order)
    check_same_map(by_rule(x, R, *CASES[case], order=order), expected, rtol=RTOL)
    check_same_map(expected.sum(1), R.sum(1), rtol=RTOL)  # the oracle conserves at every place


def test_by_hand_for_two_neurons() -> None:
    """x = (1, 2), b = κ = c = 1: S = 6; z_11 = 1/2, z_21 = −8/36; z_22 = 2/5, z_12 = −4/36."""
    x, R = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    v11, v21 = (0.5 / (0.5 - 8 / 36), -8 / 36 / (0.5 - 8 / 36))
    v22, v12 = (0.4 / (0.4 - 4 / 36), -4 / 36 / (0.4 - 4 / 36))
    check_same_map(
        by_rule(x, R, 1, 1, 1.0, 1.0, 1.0), torch.tensor([[v11 + v12, v22 + v21]], dtype=torch.float64), rtol=RTOL
    )


def test_the_messages_are_the_taylor_expansion_around_x() -> None:
    """Σ_j z_jk = y(z₂) + ∇y(x)(x − z₂) − ½ (x − z₂)ᵀ H (x − z₂), the derivatives by torch."""
    x, k, (before, after, b, c, kappa) = activations(1, 5), 2, CASES["the paper's"]
    alone = torch.zeros_like(x).index_fill(1, torch.tensor(k), float(x[0, k]))

    def y(v: Tensor) -> Tensor:
        return ops.local_response_norm(v, before, after, b, c, kappa)[0, k]

    d = (x - alone)[0]
    gradient = torch.func.grad(y)(x)[0]
    hessian = torch.autograd.functional.hessian(y, x)[0, :, 0]
    first = y(alone) + gradient @ d
    z = messages(x[0].tolist(), k, range(5), b, c, kappa, 1)
    assert sum(z.values()) == pytest.approx(float(first), rel=RTOL)
    z = messages(x[0].tolist(), k, range(5), b, c, kappa, 2)
    assert sum(z.values()) == pytest.approx(float(first - d @ hessian @ d / 2), rel=RTOL)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("limit", ["b", "c"])
def test_vanishing_b_or_c_gives_the_identity(limit: str, order: int) -> None:
    x, R = activations(2, 6, 3), activations(2, 6, 3, seed=1)
    for size in (0.0, 1e-12):
        b, c = (size, 0.75) if limit == "b" else (0.3, size)
        check_same_map(by_rule(x, R, 2, 2, b, c, 1.0, order=order), R, rtol=1e-9)
    b, c = (1e-3, 0.75) if limit == "b" else (0.3, 1e-3)
    assert not torch.allclose(by_rule(x, R, 2, 2, b, c, 1.0, order=order), R, rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_one_active_channel_keeps_its_relevance(order: int) -> None:
    x = torch.zeros(1, 6, 2, dtype=torch.float64)
    x[:, 3] = -1.7
    R = activations(1, 6, 2, seed=1)
    R[:, [0, 1, 2, 4, 5]] = 0
    assert torch.equal(by_rule(x, R, 2, 2, 0.5, 0.75, 1.0, order=order), R)


def test_relevance_of_silent_neurons_is_not_lost() -> None:
    """x_k = 0 sends messages in the proportions of x_k → 0, so that R is conserved there too."""
    x = activations(1, 5, 1)
    x[0, 2] = 0
    R = torch.zeros_like(x)
    R[0, 2] = 1
    near = x.clone()
    near[0, 2] = 1e-9
    out = by_rule(x, R, 2, 2, 0.5, 0.75, 1.0)
    assert float(out.sum()) == pytest.approx(1, rel=RTOL)
    check_same_map(out, by_double_sums(near, R, 2, 2, 0.5, 0.75, 1.0, 1), rtol=1e-7)


@pytest.mark.parametrize("c", [0.1, 0.5, 0.75, 1.0, 1.9])
def test_the_sum_of_messages_cannot_vanish(c: float) -> None:
    """−Σ_{j≠k} z_jk / z_kk as a function of u = T/S: at most 2/e by first order, `largest_second_order` by second."""
    u = torch.linspace(0, 1, 200001, dtype=torch.float64)
    first, second = 2 * c * u * (1 - u) ** c, c * u * (1 - u) ** c * (1 + 2 * (c + 1) * u)
    assert float(first.max()) == pytest.approx(2 * (c / (1 + c)) ** (c + 1), rel=1e-6)
    assert float(first.max()) < 2 / math.e
    assert largest_second_order(c) == pytest.approx(float(second.max()), rel=1e-6)


def test_what_the_rule_is_not_defined_for_is_refused() -> None:
    x = R = activations(1, 4, 2)
    with pytest.raises(RuleError, match=r"order=2.*c = 2\.0.*order=1"):
        by_rule(x, R, 1, 1, 0.1, 2.0, 1.0, order=2)
    for args in ((1, 1, -0.1, 0.75, 1.0), (1, 1, 0.1, -0.75, 1.0)):
        with pytest.raises(RuleError, match="b, c, k >= 0"):
            by_rule(x, R, *args)
    model = Net(lambda m, x: F.local_response_norm(x, 3).flatten(1))
    for options, words in (
        ({"lrn": "taylor", "lrn_order": 3}, "order=3"),
        ({"lrn_order": 2}, "lrn='taylor'"),
        ({"lrn": "no"}, "identity.*taylor"),
    ):
        with pytest.raises(CompositeError, match=words):
            relprop.explain(model, x, composite="epsilon", **options)


def test_whole_networks_conserve_and_take_the_option() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.LocalResponseNorm(4), nn.Flatten())
    model.append(nn.Linear(8 * 16, 5, bias=False)).double()
    x = activations(3, 3, 6, 6)
    for order in (1, 2):
        explainer = relprop.Explainer(model, x, "epsilon", epsilon=0.0, lrn="taylor", lrn_order=order)
        e = explainer(x, ledger=True)
        check_same_map(e.relevance.sum((1, 2, 3)), e.score, rtol=RTOL)
        assert e.ledger.closes(1e-9)
        assert ("lrn_taylor", f"order={order}") in {(r["rule"], r["parameters"]) for r in explainer.rules.rows}
    with pytest.raises(CompositeError, match=r"family\('lrn'\) matches nothing"):  # asked for, and not there
        relprop.explain(nn.Linear(4, 2), torch.ones(1, 4), composite="epsilon", lrn="taylor")
    assert relprop.explain(nn.Linear(4, 2), torch.ones(1, 4), composite="binder2016").relevance.shape == (1, 4)
    assert "lrn_taylor" in str(relprop.Explainer(model, x, "binder2016").rules)
    assert "lrn_taylor" not in str(relprop.Explainer(model, x, "binder2016", lrn="identity").rules)


# Spellings


def padded_slices(x: Tensor, n: int) -> Tensor:
    sq = F.pad(x.pow(2), (0, 0, 0, 0, n // 2, (n - 1) // 2))
    return sum((sq[:, i : i + x.shape[1]] for i in range(1, n)), start=sq[:, : x.shape[1]])


def shifted(x: Tensor, n: int) -> Tensor:
    """Written into a buffer of zeros, as early AlexNet code did."""
    out = x * x
    for i in range(1, n // 2 + 1):
        out = out + torch.cat([(x * x)[:, i:], torch.zeros_like(x[:, :i])], 1)
        out = out + torch.cat([torch.zeros_like(x[:, :i]), (x * x)[:, :-i]], 1)
    return out


def band(x: Tensor, n: int) -> Tensor:
    i = torch.arange(x.shape[1])
    matrix = ((i[:, None] - i[None]).abs() <= n // 2).to(x.dtype)
    return F.conv2d(x.square(), matrix[:, :, None, None])


def pooled(x: Tensor, n: int) -> Tensor:
    """The layer of models converted from Caffe."""
    return nn.AvgPool3d((n, 1, 1), stride=1, padding=(n // 2, 0, 0))(x.pow(2).unsqueeze(1)).squeeze(1) * n


def tensor_unfold(x: Tensor, n: int) -> Tensor:
    return F.pad(x * x, (0, 0, 0, 0, n // 2, (n - 1) // 2)).unfold(1, n, 1).sum(-1)


def channels_last(x: Tensor, n: int) -> Tensor:
    return F.avg_pool2d(F.pad(x.permute(0, 2, 3, 1).square(), (n // 2, n // 2)), (1, n), 1).permute(0, 3, 1, 2) * n


Spelling = tuple[Callable[[Tensor], Tensor], tuple[int, int, float, float, float]]
SPELLINGS: dict[str, Spelling] = {
    "module": (nn.LocalResponseNorm(5, 0.5, 0.75, 2.0), (2, 2, 0.1, 0.75, 2.0)),
    "function, even": (lambda x: F.local_response_norm(x, 4, 0.5, 0.75, 2.0), (2, 1, 0.125, 0.75, 2.0)),
    "padded slices": (lambda x: x / (1 + 0.2 * padded_slices(x, 5)).pow(0.75), (2, 2, 0.2, 0.75, 1.0)),
    "padded slices, even": (lambda x: x / (1 + 0.2 * padded_slices(x, 4)) ** 0.75, (2, 1, 0.2, 0.75, 1.0)),
    "shifted": (lambda x: x / (2 + 0.2 * shifted(x, 3)) ** 0.5, (1, 1, 0.2, 0.5, 2.0)),
    "banded matrix": (lambda x: x * (1 + 0.2 * band(x, 3)).pow(-0.75), (1, 1, 0.2, 0.75, 1.0)),
    "pooled": (lambda x: x.div(pooled(x, 5).mul(1e-4).add(1.0).pow(0.75)), (2, 2, 1e-4, 0.75, 1.0)),
    "unfolded": (lambda x: x / torch.sqrt(2 + tensor_unfold(x, 6)), (3, 2, 1.0, 0.5, 2.0)),
    "unfolded, factor in front": (lambda x: torch.rsqrt(2 + tensor_unfold(x, 3)) * x, (1, 1, 1.0, 0.5, 2.0)),
    "channels last": (lambda x: x / (0.5 + channels_last(x, 3) * 0.3) ** 0.75, (1, 1, 0.3, 0.75, 0.5)),
    "all channels": (lambda x: x / (1 + 0.3 * x.pow(2).sum(1, keepdim=True)) ** 0.75, (5, 5, 0.3, 0.75, 1.0)),
    "to one side": (
        lambda x: x / (1 + F.avg_pool3d(F.pad((x * x)[:, None], (0, 0, 0, 0, 2, 0)), (3, 1, 1), 1)[:, 0]) ** 0.75,
        (2, 0, 1 / 3, 0.75, 1.0),
    ),
    "no power": (lambda x: x / (1 + 0.2 * padded_slices(x, 3)), (1, 1, 0.2, 1.0, 1.0)),
}


def normalized(spelling: str) -> tuple[nn.Module, Tensor]:
    function = SPELLINGS[spelling][0]
    model = Net(lambda m, x: m.top(function(m.conv(x)).flatten(1)), conv=nn.Conv2d(2, 6, 1), top=nn.Linear(54, 3))
    return model.double(), activations(2, 2, 3, 3)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_recognized_with_its_window_and_constants(spelling: str) -> None:
    model, x = normalized(spelling)
    explainer = relprop.Explainer(model, x, "epsilon", epsilon=0.0, lrn="taylor")
    calls = [n for n in explainer.program.graph.nodes if n.target is ops.local_response_norm]
    assert len(calls) == 1
    assert calls[0].args[1:3] == SPELLINGS[spelling][1][:2]
    assert list(calls[0].args[3:]) == pytest.approx(SPELLINGS[spelling][1][2:], rel=1e-9)


@pytest.mark.parametrize("spelling", ["module", "padded slices, even", "all channels", "to one side"])
def test_whole_maps_by_hand(spelling: str) -> None:
    """conv 1 × 1 → LRN → linear: LRP-0 on top, equation 15 in double sums, LRP-0 below."""
    model, x = normalized(spelling)
    e = relprop.explain(model, x, target=1, composite="lrp_zero", lrn="taylor")
    a = model.conv(x)
    y = SPELLINGS[spelling][0](a)
    R_y = y * model.top.weight[1].view_as(y[0])
    R_a = by_double_sums(a.detach(), R_y.detach(), *SPELLINGS[spelling][1], 1)
    # bias absorbed: z contains it
    expected = x * torch.einsum("kj,bkhw->bjhw", model.conv.weight[:, :, 0, 0], R_a / a)
    check_same_map(e.relevance, expected.detach(), rtol=RTOL)


NOT_LRN: dict[str, Callable[[Tensor], Tensor]] = {
    "a window over pixels": lambda x: x / (1 + F.avg_pool2d(x * x, 3, 1, 1)) ** 0.75,
    "cubes": lambda x: x / (1 + tensor_unfold(x.abs() ** 0.5 * x, 3).abs()) ** 0.75,
    "weights in the window": lambda x: (
        x / (1 + F.conv2d(x * x, (torch.arange(36.0).double() / 9).view(6, 6, 1, 1))) ** 0.75
    ),
    "a clamped sum": lambda x: x / (1 + padded_slices(x, 3).clamp(max=2.0)) ** 0.75,
    "divisor smaller at the border": lambda x: (
        x / (1 + nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0), count_include_pad=False)(x.pow(2)[:, None])[:, 0]) ** 0.75
    ),
    "multiplied, not divided": lambda x: x * (1 + padded_slices(x, 3)) ** 0.75,
    "its own square is missing": lambda x: x / (1 + padded_slices(x, 3) - x * x) ** 0.75,
}


@pytest.mark.parametrize("case", NOT_LRN)
def test_what_is_no_window_of_channels_is_left_alone(case: str) -> None:
    function = NOT_LRN[case]
    model = Net(lambda m, x: m.top(function(m.conv(x)).flatten(1)), conv=nn.Conv2d(2, 6, 1), top=nn.Linear(54, 3))
    report = relprop.examine(model.double(), activations(2, 2, 3, 3), "epsilon")
    assert "local_response_norm" not in str(report)


# The general rule of equations 8 and 9


def elementwise_oracle(x: list[Tensor], at: list[Tensor], R: Tensor, g: Callable[..., float]) -> list[Tensor]:
    """z_i = g(x̃)/n + ∂g/∂x_i(x̃)(x_i − x̃_i), entry by entry, slopes by central differences of the plain function."""
    out = [torch.zeros_like(t) for t in x]
    for place in range(R.numel()):
        xs, points = [float(t.flatten()[place]) for t in x], [float(t.flatten()[place]) for t in at]
        z = []
        for i in range(len(xs)):
            h = 1e-6
            up, down = list(points), list(points)
            up[i], down[i] = up[i] + h, down[i] - h
            z.append(g(*points) / len(xs) + (g(*up) - g(*down)) / (2 * h) * (xs[i] - points[i]))
        for i, zi in enumerate(z):
            out[i].view(-1)[place] = zi / sum(z) * float(R.flatten()[place])
    return out


def sigmoid(y: float) -> float:
    return 1 / (1 + math.exp(-y))


@torch.library.custom_op("relprop_tests::gate", mutates_args=())
def gate(x: Tensor, y: Tensor) -> Tensor:
    """A user's own op: x · sigmoid(y)."""
    return x * torch.sigmoid(y)


@gate.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


def _backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    x, s = ctx.saved_tensors[0], torch.sigmoid(ctx.saved_tensors[1])
    return g * s, g * x * s * (1 - s)


gate.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
OWN = torch.ops.relprop_tests.gate.default


@pytest.fixture
def own_op() -> None:
    ops.TABLE[OWN] = ops.Op(ops.Family.PRODUCT, live=(0, 1))
    yield
    del ops.TABLE[OWN]


REFERENCES: dict[str, object] = {
    "a number": 0.5,
    "one for each": (0.3, -0.7),
    "the point itself": None,
    "one alone": (None, 0.1),
    "a tensor": activations(3, 4, seed=9),
    "tensors": (activations(3, 4, seed=7), activations(1, 4, seed=8)),
}


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("op", ["product", "own"])
def test_the_general_rule_is_the_expansion_at_the_reference(op: str, reference: str, own_op: None) -> None:
    x, y, R = activations(3, 4), activations(3, 4, seed=1), activations(3, 4, seed=2)
    target, g = (
        (torch.ops.aten.mul.Tensor, lambda a, b: a * b) if op == "product" else (OWN, lambda a, b: a * sigmoid(b))
    )
    point = REFERENCES[reference]
    f = Call(target, (x, y), target(x, y), live=(0, 1), family="product", ledger=True)
    out = rules.taylor(R, f, reference=point)
    pair = point if isinstance(point, tuple) else (point, point)
    at = [
        a if p is None else torch.as_tensor(p, dtype=torch.float64).expand(3, 4)
        for p, a in zip(pair, (x, y), strict=True)
    ]
    for actual, expected in zip(out, elementwise_oracle([x, y], at, R, g), strict=True):
        check_same_map(actual, expected, rtol=1e-6)  # the differences' own precision
    check_same_map(out[0] + out[1], R, rtol=RTOL)


def test_a_product_by_hand() -> None:
    """g = x y at (3, 5), x̃ = (1, 2): z_x = 2/2 + 2 · 2 = 5, z_y = 2/2 + 1 · 3 = 4."""
    x, y = torch.tensor([[3.0]]).double(), torch.tensor([[5.0]]).double()
    f = Call(torch.ops.aten.mul.Tensor, (x, y), x * y, live=(0, 1), family="product")
    out = rules.taylor(torch.tensor([[18.0]]).double(), f, reference=(1.0, 2.0))
    assert [float(r) for r in out] == pytest.approx([10.0, 8.0])


def test_broadcast_operands_collect_what_their_copies_get() -> None:
    x, y, R = activations(2, 4), activations(2, 1, seed=1), activations(2, 4, seed=2)
    f = Call(torch.ops.aten.mul.Tensor, (x, y), x * y, live=(0, 1), family="product")
    whole = Call(torch.ops.aten.mul.Tensor, (x, y.expand(2, 4)), x * y, live=(0, 1), family="product")
    a, b = rules.taylor(R, f, reference=0.5)
    c, d = rules.taylor(R, whole, reference=0.5)
    check_same_map(a, c, rtol=RTOL)
    check_same_map(b, d.sum(1, keepdim=True), rtol=RTOL)


def test_a_vanishing_sum_of_messages_is_booked_not_lost() -> None:
    x, y, R = activations(2, 3), activations(2, 3, seed=1), activations(2, 3, seed=2)
    f = Call(torch.ops.aten.mul.Tensor, (x, y), x * y, live=(0, 1), family="product", ledger=True)
    out = rules.taylor(R, f, reference=0.0)  # g and its slopes are 0 at 0
    assert not any(r.any() for r in out)
    check_same_map(f.kept["residual"], R.sum(1), rtol=RTOL)


@pytest.mark.parametrize("point", [0.5, (0.5, 0.5), torch.tensor(0.5).double(), (torch.full((5,), 0.5).double(), 0.5)])
def test_the_general_rule_in_a_network_with_a_users_own_op(point: object, own_op: None) -> None:
    model = Net(lambda m, x: m.top(gate(m.a(x), m.b(x))), a=nn.Linear(4, 5), b=nn.Linear(4, 5), top=nn.Linear(5, 3))
    x = activations(3, 4)
    mine = [(composites.op("gate"), partial(rules.taylor, reference=point))]
    explainer = relprop.Explainer(model.double(), x, mine + composites.get("lrp_zero"))
    e = explainer(x, target=0, ledger=True)
    a, b, w = model.a(x), model.b(x), model.top.weight[0]
    R = (gate(a, b) * w).detach()
    at = [torch.full_like(R, 0.5)] * 2
    R_a, R_b = elementwise_oracle([a.detach(), b.detach()], at, R, lambda p, q: p * sigmoid(q))
    # lrp_zero on a layer with bias: x ⊙ Wᵀ(R / z)
    expected = x * ((R_a / a) @ model.a.weight + (R_b / b) @ model.b.weight)
    check_same_map(e.relevance, expected.detach(), rtol=1e-6)
    assert e.ledger.closes(1e-9)
    space: dict[str, Any] = {"__name__": "program"}
    exec(explainer.code, space)
    again = space["program"](explainer.program.state_dict(), x, 0)[3][0]
    assert torch.equal(again, e.relevance)


def test_one_input_takes_all_wherever_it_is_expanded() -> None:
    x, R = activations(2, 3), activations(2, 3, seed=1)
    f = Call(torch.ops.aten.tanh.default, (x,), x.tanh())
    assert torch.equal(rules.taylor(R, f, reference=0.7), R)


@pytest.mark.parametrize(
    ("reference", "words"),
    [((0.1, 0.2, 0.3), "3 points.*2 live"), (torch.zeros(7).double(), "does not fit")],
    ids=["too many", "another shape"],
)
def test_references_that_do_not_fit_are_refused(reference: object, words: str) -> None:
    x, y = activations(2, 3), activations(2, 3, seed=1)
    f = Call(torch.ops.aten.mul.Tensor, (x, y), x * y, live=(0, 1), family="product")
    with pytest.raises(RuleError, match=words):
        rules.taylor(x, f, reference=reference)


def test_a_reference_has_to_be_chosen() -> None:
    with pytest.raises(CompositeError, match=r"cannot take a function.*written into a program"):
        relprop.Composite([(composites.family("product"), partial(rules.taylor, reference=lambda x: x))])
    with pytest.raises(CompositeError, match="reference="):
        relprop.Composite([(composites.family("product"), rules.taylor)])


class Masked(nn.Module):
    """Normalizations by a mask, an order or a choice that depend on the input: they must be left alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.top = kind, nn.Conv2d(2, 6, 1), nn.Linear(54, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        sq = {
            "mask of the input": lambda: padded_slices(h, 3) * (x[:, :1] > 0).to(h.dtype),
            "masked_fill": lambda: padded_slices(h, 3).masked_fill(x[:, :1] > 0, 0.0),
            "where": lambda: torch.where(h > 0, padded_slices(h, 3), h * h),
            "gather": lambda: padded_slices(h, 3).gather(1, h.argsort(1)),
            "the batch's size": lambda: padded_slices(h, 3) + x.shape[0],
            "whole numbers": lambda: padded_slices(h, 3) + x.int().sum(),
        }
        if self.kind == "rounded":
            return self.top(torch.div(h, 1 + padded_slices(h, 3), rounding_mode="floor").flatten(1))
        return self.top((h / (1 + sq[self.kind]()) ** 0.75).flatten(1))


@pytest.mark.parametrize(
    "kind", ["mask of the input", "masked_fill", "where", "gather", "the batch's size", "whole numbers", "rounded"]
)
def test_what_depends_on_the_input_otherwise_is_no_normalization(kind: str) -> None:
    report = relprop.examine(Masked(kind).double(), activations(2, 2, 3, 3), "epsilon")
    assert "local_response_norm" not in str(report)
    assert "bug of relprop" not in str(report)


def test_casts_do_not_hide_a_normalization() -> None:
    """Up to a more precise type and back; down to a coarser one is another function."""

    def through(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x / (1 + 0.2 * padded_slices(x.to(dtype), 3)).to(x.dtype) ** 0.75

    for own, dtype in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        model = Net(
            lambda m, x, dtype=dtype: m.top(through(m.conv(x), dtype).flatten(1)),
            conv=nn.Conv2d(2, 6, 1), top=nn.Linear(54, 3),
        )  # fmt: skip
        report = relprop.examine(model.to(own), activations(2, 2, 3, 3).to(own), "epsilon")
        assert ("local_response_norm" in str(report)) == (own is torch.float32)
        assert report.ready
