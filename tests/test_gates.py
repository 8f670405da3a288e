"""Gates: what weighs another value takes nothing, or half; against gradient forms written by hand (tests/held.py)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agreement import check_agrees
from held import RECIPES, Recipe, random_weights, secant
from nets import Net

HOW = Recipe("value", "half")


def rows(width: int = 6) -> Tensor:
    return torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(11))


def images() -> Tensor:
    return torch.randn(2, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(12))


def weighed(gate: Tensor, signal: Tensor, how: str) -> Tensor:
    """gate · signal: the signal takes all, or half."""
    return gate.detach() * signal if how == "signal" else HOW.product(gate, signal)


def linears(**sizes: tuple[int, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(*size) for name, size in sizes.items()}


def net(how: Callable[..., Tensor], modules: dict[str, nn.Module]) -> nn.Module:
    return random_weights(Net(how, **modules), 5)


# Sigmoid gates in one network: (modules, spellings, oracle)

Gated = tuple[Callable[[], dict[str, nn.Module]], dict[str, Callable[..., Tensor]], Callable[..., Tensor]]


def squeezed(m: Net, x: Tensor, how: str) -> Tensor:
    """Squeeze and excitation: σ(W₂ relu(W₁ mean(x))) weighs the channels (Hu et al. 2018)."""
    hidden = secant(F.relu, m.reduce(x.mean((2, 3))))
    gate = secant(torch.sigmoid, m.expand(hidden))
    return m.head(weighed(gate[:, :, None, None], x, how).sum((2, 3)))


def squeeze(m: Net, x: Tensor) -> Tensor:
    s = F.adaptive_avg_pool2d(x, 1).flatten(1)
    s = torch.sigmoid(m.expand(F.relu(m.reduce(s))))
    return m.head((x * s.view(x.shape[0], -1, 1, 1)).sum((2, 3)))


def squeeze_by_convolutions(m: Net, x: Tensor) -> Tensor:
    w = [(layer.weight[:, :, None, None], layer.bias) for layer in (m.reduce, m.expand)]
    s = F.conv2d(F.relu(F.conv2d(x.mean((2, 3), keepdim=True), *w[0])), *w[1]).sigmoid()
    return m.head((s.expand_as(x) * x).sum((2, 3)))


def glu(m: Net, x: Tensor, how: str) -> Tensor:
    a, b = m.pair(x).chunk(2, -1)
    return m.head(weighed(secant(torch.sigmoid, b), a, how))


def two_layers(m: Net, x: Tensor) -> Tensor:
    (w, v), (b, c) = m.pair.weight.chunk(2), m.pair.bias.chunk(2)
    return m.head(F.linear(x, w, b) * F.linear(x, v, c).sigmoid())


def highway(m: Net, x: Tensor, how: str) -> Tensor:
    """T(x) H(x) + (1 − T(x)) x (Srivastava et al. 2015)."""
    gate = secant(torch.sigmoid, m.gate(x))
    h = secant(torch.tanh, m.body(x))
    return m.head(weighed(gate, h, how) + weighed(1 - gate, x, how))


def written_highway(m: Net, x: Tensor) -> Tensor:
    t = torch.sigmoid(m.gate(x))
    return m.head(t * torch.tanh(m.body(x)) + (1.0 - t) * x)


def lerp_by_hand(m: Net, x: Tensor) -> Tensor:
    t = F.sigmoid(m.gate(x))
    return m.head(torch.mul(m.body(x).tanh(), t) + x * (-t + 1))


SIGMOID: dict[str, Gated] = {
    "squeeze and excitation": (
        lambda: linears(reduce=(6, 4), expand=(4, 6), head=(6, 3)),
        {"linear": squeeze, "convolutions": squeeze_by_convolutions},
        squeezed,
    ),
    "GLU": (
        lambda: linears(pair=(6, 10), head=(5, 3)),
        {
            "F.glu": lambda m, x: m.head(F.glu(m.pair(x), -1)),
            "chunk": lambda m, x: m.head(m.pair(x).chunk(2, -1)[0] * torch.sigmoid(m.pair(x).chunk(2, -1)[1])),
            "slices": lambda m, x: m.head(torch.sigmoid(m.pair(x)[:, 5:]) * m.pair(x)[:, :5]),
            "split": lambda m, x: m.head(torch.mul(*(f(p) for f, p in zip((nn.Identity(), nn.Sigmoid()), m.pair(x).split(5, 1), strict=True)))),
            "two layers": two_layers,
        },
        glu,
    ),
    "highway": (
        lambda: linears(gate=(6, 6), body=(6, 6), head=(6, 3)),
        {"1 − t": written_highway, "−t + 1": lerp_by_hand},
        highway,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ["signal", "half"])
@pytest.mark.parametrize(("name", "spelling"), [(n, s) for n, (_, spellings, _) in SIGMOID.items() for s in spellings])
def test_sigmoid_gates(name: str, spelling: str, how: str) -> None:
    modules, spellings, oracle = SIGMOID[name]
    torch.manual_seed(0)
    model = net(spellings[spelling], modules())
    x = images() if name.startswith("squeeze") else rows()
    check_agrees(model, lambda a: oracle(model, a, how), x, gate=how)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_sigmoid_gate_takes_nothing_in_every_recipe(recipe: str) -> None:
    modules, spellings, oracle = SIGMOID["highway"]
    model = net(spellings["1 − t"], modules())
    check_agrees(model, lambda a: oracle(model, a, "signal"), rows(), recipe=recipe)


# Recurrent cells written by hand, three steps


def lstm(m: Net, x: Tensor) -> Tensor:
    h = c = x.new_zeros(x.shape[0], 4)
    for t in range(3):
        i, f, g, o = (m.w(x[:, t]) + m.u(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return m.head(h)


def held_lstm(m: Net, x: Tensor, how: str) -> Tensor:
    h = c = x.new_zeros(x.shape[0], 4)
    for t in range(3):
        i, f, g, o = (m.w(x[:, t]) + m.u(h)).chunk(4, 1)
        i, f, o = (secant(torch.sigmoid, z) for z in (i, f, o))
        entered = weighed(i, secant(torch.tanh, g), how)
        c = entered if t == 0 else weighed(f, c, how) + entered
        h = weighed(o, secant(torch.tanh, c), how)
    return m.head(h)


def gru(m: Net, x: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 4)
    for t in range(3):
        (r, z, n), (s, y, k) = m.w(x[:, t]).chunk(3, 1), m.u(h).chunk(3, 1)
        r, z = torch.sigmoid(r + s), torch.sigmoid(z + y)
        h = (1 - z) * torch.tanh(n + r * k) + z * h
    return m.head(h)


def held_gru(m: Net, x: Tensor, how: str) -> Tensor:
    h = x.new_zeros(x.shape[0], 4)
    for t in range(3):
        (r, z, n), (s, y, k) = m.w(x[:, t]).chunk(3, 1), m.u(h).chunk(3, 1)
        r, z = secant(torch.sigmoid, r + s), secant(torch.sigmoid, z + y)
        # at the first step k is the layer's bias, so that r is the only factor that depends on the input
        n = secant(torch.tanh, n + (r * k if t == 0 else weighed(r, k, how)))
        h = weighed(1 - z, n, how) + (0 if t == 0 else weighed(z, h, how))
    return m.head(h)


CELLS = {"LSTM": (lstm, held_lstm, 16), "GRU": (gru, held_gru, 12)}


@pytest.mark.parametrize("cell", CELLS)
def test_cells_written_by_hand(cell: str) -> None:
    written, held, width = CELLS[cell]
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(13))
    model = net(written, linears(w=(5, width), u=(4, width), head=(4, 3)))
    check_agrees(model, lambda a: held(model, a, "signal"), x)


def test_a_cell_without_biases_conserves() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(13))
    model = net(lstm, linears(w=(5, 16), u=(4, 16), head=(4, 3)))
    for p in (m.bias for m in (model.w, model.u, model.head)):
        nn.init.zeros_(p)
    check_agrees(model, lambda a: held_lstm(model, a, "signal"), x, conserves=True)


# Gated linear units whose gate is an activation

ACTIVATED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "SwiGLU": (F.silu, F.silu),
    "SwiGLU, written out": (lambda z: z * torch.sigmoid(z), F.silu),
    "GEGLU": (F.gelu, F.gelu),
    "GEGLU, tanh": (lambda z: F.gelu(z, approximate="tanh"), lambda z: F.gelu(z, approximate="tanh")),
    "ReGLU": (F.relu, F.relu),
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("act", ACTIVATED)
def test_gated_linear_units(act: str, recipe: str) -> None:
    written, plain = ACTIVATED[act]
    model = net(lambda m, x: m.head(written(m.gate(x)) * m.up(x)), linears(gate=(6, 5), up=(6, 5), head=(5, 3)))
    for z in model.gate(rows()):
        assert (z != 0).all()

    def held(x: Tensor) -> Tensor:
        return model.head(RECIPES[recipe].gate(plain, model.gate(x), model.up(x)))

    check_agrees(model, held, rows(), recipe=recipe)


def test_a_product_of_two_linear_maps_has_no_gate() -> None:
    model = net(lambda m, x: m.head(m.gate(x) * m.up(x)), linears(gate=(6, 5), up=(6, 5), head=(5, 3)))
    for recipe in RECIPES:
        check_agrees(model, lambda x: model.head(HOW.product(model.gate(x), model.up(x))), rows(), recipe=recipe)


# Mixtures of experts: the router's weights are held


def experts(m: Net, x: Tensor) -> Tensor:
    """(batch, experts, 3)."""
    return torch.stack([m.a(x), m.b(x), m.c(x), m.d(x)], 1)


def all_of_them(m: Net, x: Tensor) -> Tensor:
    return (torch.softmax(m.router(x), -1).unsqueeze(-1) * experts(m, x)).sum(1)


def by_matmul(m: Net, x: Tensor) -> Tensor:
    return (F.softmax(m.router(x), 1).unsqueeze(1) @ experts(m, x)).squeeze(1)


def by_einsum(m: Net, x: Tensor) -> Tensor:
    return torch.einsum("be,bed->bd", m.router(x).softmax(1), experts(m, x))


def by_gather(m: Net, x: Tensor) -> Tensor:
    w, index = torch.topk(torch.softmax(m.router(x), -1), 2, dim=-1)
    chosen = experts(m, x).gather(1, index[:, :, None].expand(-1, -1, 3))
    return ((w / w.sum(-1, keepdim=True))[:, :, None] * chosen).sum(1)


def by_softmax_of_the_best(m: Net, x: Tensor) -> Tensor:
    z, index = m.router(x).topk(2, -1)
    w = torch.zeros_like(m.router(x)).scatter(1, index, torch.softmax(z, -1))
    return (w[:, :, None] * experts(m, x)).sum(1)


def by_one_hot(m: Net, x: Tensor) -> Tensor:
    p = torch.softmax(m.router(x), -1)
    keep = F.one_hot(torch.topk(p, 2, -1).indices, 4).sum(1).to(p.dtype)
    w = p * keep / (p * keep).sum(-1, keepdim=True)
    return (w[:, :, None] * experts(m, x)).sum(1)


def by_loop(m: Net, x: Tensor) -> Tensor:
    p = torch.softmax(m.router(x), -1)
    w, index = torch.topk(p, 2, -1)
    w = w / w.sum(-1, keepdim=True)
    out = torch.zeros(x.shape[0], 3, dtype=x.dtype)
    for e, expert in enumerate((m.a, m.b, m.c, m.d)):
        out = out + torch.where(index == e, w, 0.0).sum(-1, keepdim=True) * expert(x)
    return out


def by_sigmoid(m: Net, x: Tensor) -> Tensor:
    s = torch.sigmoid(m.router(x))
    return ((s / s.sum(-1, keepdim=True))[:, :, None] * experts(m, x)).sum(1)


MIXTURES = {
    "all": (all_of_them, "all"),
    "all, matmul": (by_matmul, "all"),
    "all, einsum": (by_einsum, "all"),
    "best two, gathered": (by_gather, "two"),
    "best two, softmax of them": (by_softmax_of_the_best, "two"),
    "best two, one-hot": (by_one_hot, "two"),
    "best two, loop": (by_loop, "two"),
    "normalized sigmoids": (by_sigmoid, "sigmoid"),
}


@pytest.mark.parametrize("recipe", ["lrp_zero", "cp_lrp"])
@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_of_experts_hold_the_router(name: str, recipe: str) -> None:
    mixed, kind = MIXTURES[name]
    model = net(mixed, linears(router=(6, 4), a=(6, 3), b=(6, 3), c=(6, 3), d=(6, 3)))

    def held(x: Tensor) -> Tensor:
        p = torch.sigmoid(model.router(x)) if kind == "sigmoid" else torch.softmax(model.router(x), -1)
        p = p.detach()
        if kind == "two":
            p = p * (p >= p.topk(2, -1).values[:, -1:])
        return torch.einsum("be,bed->bd", p / p.sum(-1, keepdim=True), experts(model, x))

    check_agrees(model, held, rows(), recipe=recipe)


def test_the_routers_softmax_is_shared_by_attnlrp() -> None:
    model = net(all_of_them, linears(router=(6, 4), a=(6, 3), b=(6, 3), c=(6, 3), d=(6, 3)))

    def held(x: Tensor) -> Tensor:
        return HOW.product(torch.softmax(model.router(x), -1)[:, :, None], experts(model, x)).sum(1)

    check_agrees(model, held, rows(), recipe="attnlrp")
