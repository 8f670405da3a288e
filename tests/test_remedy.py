"""Refusals that say what to write instead: written so, taken from the message itself, it works and is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dense
import relprop
from checks import check_same_map, check_sums_to
from nets import Net, rows
from recurrent_nets import ARITHMETIC, by_gradient, make, unrolled
from relprop import ops
from relprop.errors import CaptureError, RelpropError, RuleError, TargetError

RTOL = 1e-9


@pytest.fixture(autouse=True)
def declarations_end_with_the_test() -> Iterator[None]:
    before = dict(ops.TABLE)
    yield
    ops.TABLE.clear()
    ops.TABLE.update(before)


def message(error: type[RelpropError], model: nn.Module, inputs: Any, **options: Any) -> str:
    """What the refusal says."""
    with pytest.raises(error) as e:
        relprop.explain(model, inputs, **options)
    return str(e.value)


def advised(pattern: str, text: str) -> str:
    """The part of a message that is to be written."""
    found = re.search(pattern, text)
    if found is None:
        raise AssertionError(f"no such advice in: {text}")
    return found[1]


def check_is_gradient_times_input(model: nn.Module, x: Tensor, target: Callable[[Tensor], Tensor]) -> None:
    """LRP-0 of a piecewise linear model, and its ledger."""
    e = relprop.explain(model, x, target, "lrp_zero", ledger=True)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(target(model(leaf)).sum(), leaf)
    check_same_map(e.relevance, x * g, RTOL)
    assert e.ledger.closes()


def first_class(y: Tensor) -> Tensor:
    return y[:, 0]


# Ops without a rule: two lines, the declaration and the call that failed


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    return {"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 3, bias=False)}


def check_declared(model: Net, x: Tensor, f: Callable[[Tensor], Tensor], constant: float) -> None:
    """b f(a x) for output 0: R_j = Σ_k x_j w_jk / z_k · v_k (f(z_k) − f(0)), and f(0) Σ_k v_k is a bias."""
    e = relprop.explain(model, x, 0, "lrp_zero", ledger=True)
    with torch.no_grad():
        z, v = model.a(x), model.b.weight[0]
        expected = x * ((v * (f(z) - constant) / z) @ model.a.weight)
    check_same_map(e.relevance, expected, RTOL)
    check_sums_to(e.ledger.bias, (constant * v.sum()).expand(len(x)), RTOL)
    assert e.ledger.closes()


DECLARED: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "f(0) = 0": (torch.special.bessel_j1, 0.0),
    "f(0) = 1": (torch.special.bessel_j0, 1.0),
}


@pytest.mark.parametrize("case", DECLARED)
def test_an_elementwise_op_is_declared_by_the_line_of_the_message(case: str) -> None:
    f, constant = DECLARED[case]
    model, x = Net(lambda m, x: m.b(f(m.a(x))), **layers()), rows()
    said = message(RuleError, model, x)
    line = advised(r"`(relprop\.ops\.TABLE\[.*?)`", said)
    if constant:  # the message says when: "zero=False if f(0) is not 0"
        line = line.removesuffix(")") + ", " + advised(r"\((zero=False) if f\(0\) is not 0\)", said) + ")"
    exec(line, {"relprop": relprop, "torch": torch})
    check_declared(model, x, f, constant)


@torch.library.custom_op("relprop_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    """An op that is not torch's."""
    return x**3


@cube.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_op_of_another_library_is_declared_by_the_line_of_the_message() -> None:
    model, x = Net(lambda m, x: m.b(cube(m.a(x))), **layers()), rows()
    line = advised(r"`(relprop\.ops\.TABLE\[.*?)`", message(RuleError, model, x))
    exec(line, {"relprop": relprop, "torch": torch})
    check_declared(model, x, lambda z: z**3, 0.0)


def test_a_composite_without_a_rule_for_a_layer_takes_the_pair_of_the_message() -> None:
    """Flat below as given, and the pair's rule above: LRP-ε with its default."""
    model, x = Net(lambda m, x: m.b(torch.relu(m.a(x))), **layers()), rows()
    given: list[tuple[Any, Any]] = [("a", relprop.rules.flat)]
    said = message(RuleError, model, x, composite=given)
    pair = eval(advised(r"Add a pair such as (\(.*\)); rules", said), {"relprop": relprop})
    assert pair[1] is relprop.rules.epsilon
    e = relprop.explain(model, x, 0, [*given, pair], ledger=True)
    with torch.no_grad():
        h, y = torch.relu(model.a(x)), model(x)
    above = torch.zeros_like(y)
    above[:, 0] = y[:, 0]
    R = dense.zero(dense.dense(model.b, (4,)), h, above)
    check_same_map(e.relevance, dense.flat(dense.dense(model.a, (4,)), x, R), 1e-5)  # ε = 1e-6 of the rms
    assert e.ledger.closes()


def test_a_normalization_with_running_statistics_is_the_batch_norm_of_the_message() -> None:
    torch.manual_seed(2)
    norm, x = nn.InstanceNorm2d(2, affine=True, track_running_stats=True), torch.randn(3, 2, 2, 2).double()
    nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2.0), nn.init.normal_(norm.weight)
    said = message(RuleError, Net(lambda m, x: m.norm(x).flatten(1), norm=norm), x)
    assert "replace it by the BatchNorm it is" in said
    written = nn.BatchNorm2d(2)
    written.load_state_dict(norm.state_dict())
    check_is_gradient_times_input(Net(lambda m, x: m.norm(x).flatten(1), norm=written), x, first_class)


def test_indices_that_are_computed_become_an_input() -> None:
    """What a word adds to the logit is its own; what is looked up for another index is that input's."""
    torch.manual_seed(3)
    tokens, table, head = torch.tensor([[1, 4, 2], [3, 3, 5]]), nn.Embedding(10, 4), nn.Linear(4, 2)

    def score(m: Any, t: Tensor, u: Tensor) -> Tensor:
        return m.head(m.table(t).mean(1) + m.table(u)[:, 0])

    computed = Net(lambda m, t: score(m, t, (t + 1) % 10), table=table, head=head)
    assert "pass each as an input" in message(RuleError, computed, tokens)
    e = relprop.explain(Net(score, table=table, head=head), (tokens, (tokens + 1) % 10), 1, "lrp_zero", ledger=True)
    worth = (table.weight @ head.weight[1]).detach()
    moved = torch.zeros(2, 3).double()
    moved[:, 0] = worth[(tokens[:, 0] + 1) % 10]
    check_same_map(e.relevance[0], worth[tokens] / 3, RTOL)
    check_same_map(e.relevance[1], moved, RTOL)
    assert e.ledger.closes()


# Models that cannot be captured


def test_a_decision_on_values_becomes_torch_where() -> None:
    def decides(m: Net, x: Tensor) -> Tensor:
        z = m.a(x)
        return m.b(z) if z.sum() > 0 else m.b(-z)

    def chooses(m: Net, x: Tensor) -> Tensor:
        z = m.a(x)
        return m.b(torch.where(z.sum(1, keepdim=True) > 0, z, -z))

    said = message(CaptureError, Net(decides, **layers()), rows())
    assert "by torch.where" in said
    assert "z.sum() > 0" in said
    check_is_gradient_times_input(Net(chooses, **layers()), rows(), first_class)


def test_an_output_of_an_unknown_class_is_picked_by_the_line_of_the_message() -> None:
    model = Net(lambda m, x: SimpleNamespace(logits=m.a(x)), **layers())
    line = advised(r"or `return (self\.model\(x\)\.logits)`", message(CaptureError, model, rows()))
    wrapped = Net(lambda m, x: eval(line, {"self": m, "x": x}), model=model)
    check_is_gradient_times_input(wrapped, rows(), first_class)


def test_a_batch_read_as_time_is_put_first_as_the_message_says() -> None:
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(4)).double()
    right, wrong = make(nn.GRU), nn.GRU(3, 4).double()
    wrong.load_state_dict(right.state_dict())
    said = message(CaptureError, Net(lambda m, x: m.net(x)[0][:, -1], net=wrong), x)
    assert "give the layer batch_first=True" in said
    assert right.batch_first
    zero = torch.zeros(1, 4, 4).double()
    oracle = Net(lambda m, x: unrolled(ARITHMETIC["signal"], right, x, (zero,))[0][:, -1])
    model = Net(lambda m, x: m.net(x)[0][:, -1], net=right)
    e = relprop.explain(model, x, 0, "epsilon", epsilon=0.0, ledger=True)
    check_same_map(e.relevance, by_gradient(oracle, (x,))[0], RTOL)
    assert e.ledger.closes()


# Targets


@pytest.mark.parametrize("which", [0, 1])
def test_an_output_of_several_positions_is_asked_as_the_message_says(which: int) -> None:
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(5)).double()
    torch.manual_seed(5)
    model = Net(lambda m, x: m.a(x), a=nn.Linear(4, 5))
    said = message(TargetError, model, x)
    target = eval(advised((r"target=(relprop\.\S+ id=None\))", r"target=(lambda out: out\S+ 0, 3\])")[which], said))
    e = relprop.explain(model, x, target, "lrp_zero", ledger=True)
    y = model(x).detach()
    place, index = ((-1, y[:, -1].argmax(1)), (0, torch.full((3,), 3)))[which]
    expected = torch.zeros_like(x)
    expected[:, place] = x[:, place] * model.a.weight[index].detach()
    check_same_map(e.relevance, expected, RTOL)
    assert e.ledger.closes()
