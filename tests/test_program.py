"""The program: readable, runs by itself, compiles, exports, differentiates, maps; targets, records, counted cost."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import relprop
from networks import CifarResNet, Shared, TwoInputs, UNet
from relprop import rules
from relprop.composites import Composite, family
from relprop.zoo.cifar10 import Cifar10LRN

BOX = {"low": -10.0, "high": 10.0}


def close(a: Tensor, b: Tensor, rtol: float = 1e-9) -> None:
    """Raise unless the two agree relative to the largest value."""
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= rtol * float(b.abs().max())


@pytest.fixture(scope="module")
def lrn() -> tuple[relprop.Explainer, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    return relprop.Explainer(Cifar10LRN().double(), x, "epsilon_gamma_box", **BOX), x


# the text


@pytest.mark.parametrize("net", [Cifar10LRN, UNet, partial(CifarResNet, 1), Shared])
def test_the_code_runs_by_itself_and_gives_the_programs_result(net: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net().double().eval()
    x = torch.randn(2, *((6,) if isinstance(model, Shared) else (3, 32, 32)), dtype=torch.float64)
    explainer = relprop.Explainer(model, x, "alpha_beta")
    expected = explainer(x, 1)
    (tmp_path / "program.py").write_text(explainer.code)
    torch.save(explainer.program.state_dict(), tmp_path / "program.pt")
    torch.save(x, tmp_path / "inputs.pt")
    scope: dict[str, object] = {"__name__": "program"}
    exec(compile(explainer.code, "program.py", "exec"), scope)
    output, score, target, (relevance,), _, _ = scope["program"](explainer.program.state_dict(), x, 1)  # type: ignore[operator]
    close(relevance, expected.relevance)
    close(output, expected.output)
    close(score, expected.score)
    assert target.tolist() == [1, 1]
    if isinstance(model, Shared):  # once in a process of its own
        run = subprocess.run(
            [sys.executable, "program.py", "program.pt", "inputs.pt"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
            env={"PYTHONPATH": str(Path(relprop.__file__).parents[1]), "PATH": ""},
        )  # fmt: skip
        best = explainer(x)
        printed = float(run.stdout.split("sum of relevance [")[1].split("]")[0])
        assert printed == pytest.approx(float(best.relevance.sum()), rel=1e-9)


def test_the_code_has_one_line_a_value_named_after_the_modules() -> None:
    """A golden program: a change that alters it must be meant."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    code = relprop.Explainer(model, torch.zeros(1, 3), "epsilon").code
    body = code[code.index("def program") : code.index("if __name__")].strip()
    assert body == Path(__file__).with_name("fixtures").joinpath("golden_program.txt").read_text().strip()


def test_a_users_own_rule_is_written_by_its_name() -> None:
    @rules.rule(family_of("affine"), conserves=False, source="this test")
    def doubled(R: Tensor, f: rules.Call) -> Tensor:
        """R_j = 2 · LRP-0"""
        return 2 * rules.zero(R, f)  # type: ignore[operator]

    x = torch.randn(2, 3)
    explainer = relprop.Explainer(nn.Linear(3, 2), x, Composite([(family("affine"), doubled)]))
    plain = relprop.explain(explainer.model, x, 0, "lrp_zero")
    close(explainer(x, 0).relevance, 2 * plain.relevance, 1e-6)
    scope: dict[str, object] = {"__name__": "program"}
    exec(explainer.code, scope)
    result = scope["program"](explainer.program.state_dict(), x, 0)  # type: ignore[operator]
    close(result[3][0], 2 * plain.relevance, 1e-6)


def family_of(name: str) -> object:
    from relprop.ops import Family

    return Family(name)


# what can be done with the graph module


def test_compiles_without_graph_breaks(lrn: tuple[relprop.Explainer, Tensor]) -> None:
    explainer, x = lrn
    compiled = torch.compile(explainer.program, fullgraph=True, backend="eager")
    with torch.no_grad():
        result = compiled(x, torch.tensor([1, 2, 3]))
    close(result[3][0], explainer(x, torch.tensor([1, 2, 3])).relevance)


def test_exports(lrn: tuple[relprop.Explainer, Tensor]) -> None:
    explainer, x = lrn
    target = torch.tensor([1, 2, 3])
    exported = torch.export.export(explainer.program, (x, target), strict=False).module()
    close(exported(x, target)[3][0].detach(), explainer(x, target).relevance)


def test_is_differentiable(lrn: tuple[relprop.Explainer, Tensor]) -> None:
    """The derivative of a sum of squares of relevance equals finite differences."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    explainer = relprop.Explainer(model, torch.randn(1, 4).double(), "epsilon", epsilon=0.1)
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: explainer(v, 1).relevance, (x,))
    with torch.no_grad():
        assert not explainer(x, 1).relevance.requires_grad


def test_maps_over_targets_and_several_targets_share_one_forward(lrn: tuple[relprop.Explainer, Tensor]) -> None:
    explainer, x = lrn
    together = explainer(x, [0, torch.tensor([1, 2, 3]), None], ledger=True)
    assert together.relevance.shape == (3, *x.shape)
    assert together.score.shape == (3, 3)
    for k, target in enumerate((0, torch.tensor([1, 2, 3]), None)):
        close(together.relevance[k], explainer(x, target).relevance)
        assert together.ledger[k].closes()
    program = explainer._any.program(False, ())
    _, explained, saved = program.forward(x)
    seeds = torch.eye(10, dtype=x.dtype)[:, None] * explained
    with torch.no_grad():
        mapped = torch.func.vmap(lambda R: program.backward(R, *saved)[0][0])(seeds)
    close(mapped[0], together.relevance[0])
    with FlopCounterMode(display=False) as one:
        explainer(x, 0)
    with FlopCounterMode(display=False) as three:
        explainer(x, [0, 1, 2])
    with FlopCounterMode(display=False) as forward:
        program.forward(x)
    backward = one.get_total_flops() - forward.get_total_flops()
    assert three.get_total_flops() == forward.get_total_flops() + 3 * backward


# cost: no forward whose result is thrown away


def flops(net: nn.Module, x: Tensor, composite: str, **options: object) -> float:
    """FLOPs of one explanation relative to forward + gradient to the input."""
    explainer = relprop.Explainer(net, x, composite, **options)
    with FlopCounterMode(display=False) as ours:
        explainer(x, 0)
    y = x.clone().requires_grad_()
    for p in net.parameters():
        p.requires_grad_(False)
    with FlopCounterMode(display=False) as gradient:
        net(y)[:, 0].sum().backward()
    return ours.get_total_flops() / gradient.get_total_flops()


def test_epsilon_costs_the_gradient_and_gamma_one_forward_more() -> None:
    convs = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    net = nn.Sequential(*convs, nn.Linear(16 * 16, 10)).eval()
    x = torch.rand(2, 1, 12, 12)
    assert flops(net, x, "lrp_zero") == pytest.approx(1.0, abs=0.01)
    assert flops(net, x, "epsilon") == pytest.approx(1.0, abs=0.01)
    assert flops(nn.Sequential(nn.ReLU(), *net), x, "gamma") <= 1.54  # the last layer is not followed by a ReLU
    assert flops(nn.Sequential(nn.ReLU(), *net), x, "z_plus") <= 1.51


# targets


def test_target_forms_agree() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    explainer = relprop.Explainer(model, x, "epsilon")
    output = model(x).detach()
    best = output.argmax(1)
    reference = explainer(x, best)
    close(explainer(x).relevance, reference.relevance)
    close(reference.score, output.gather(1, best[:, None])[:, 0])
    close(explainer(x, output * nn.functional.one_hot(best, 3)).relevance, reference.relevance)
    close(explainer(x, lambda out: out.gather(1, best[:, None])[:, 0]).relevance, reference.relevance)
    close(explainer(x, 2).relevance, explainer(x, torch.full((5,), 2)).relevance)
    contrast = explainer(x, lambda out: out[:, 0] - out[:, 2], ledger=True)
    close(contrast.relevance, explainer(x, 0).relevance - explainer(x, 2).relevance)
    assert contrast.ledger.closes()
    curved = explainer(x, lambda out: out.square().sum(1), ledger=True)  # first order: twice the value
    close(curved.ledger.residual, -curved.score, 1e-9)
    assert curved.ledger.closes()


def test_regression_output_without_class_dimension() -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)[:, 0]

    e = relprop.explain(Squeezed(), torch.randn(3, 4), composite="lrp_zero", ledger=True)
    assert e.score.shape == (3,)
    assert e.ledger.closes()


# structure of inputs and records


def test_relevance_has_the_structure_of_the_inputs() -> None:
    torch.manual_seed(0)
    model, image, vector = TwoInputs(), torch.randn(2, 1, 6, 6), torch.randn(2, 5)
    by_name = relprop.explain(model, {"image": image, "vector": vector, "scale": 2.0}, ledger=True)
    assert set(by_name.relevance) == {"image", "vector", "scale"}
    assert by_name.relevance["scale"] is None
    assert by_name.ledger.closes()
    by_place = relprop.explain(model, (image, vector, 2.0))
    close(by_place.relevance[0], by_name.relevance["image"])
    close(by_place.relevance[1], by_name.relevance["vector"])


def test_recorded_relevance_sums_to_what_passes_there() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3, bias=False)
    )
    model = model.double().eval()
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    e = relprop.explain(model, x, 0, "lrp_zero", record=("0", "2"))
    assert e.recorded["2"].shape == (2, 4, 4, 4)
    close(e.recorded["2"].sum((1, 2, 3)), e.score)
    close(e.recorded["0"], e.recorded["2"])  # ReLU passes; "0" names the convolution with its BatchNorm
    by_hand = model[:3](x).flatten(1) * model[4].weight[0]
    close(e.recorded["2"].flatten(1), by_hand.detach())


def test_a_record_of_a_layer_called_twice_asks_which_call() -> None:
    model = Shared(bias=False)
    x = torch.randn(2, 6)
    with pytest.raises(relprop.errors.InputError, match="inner_1, inner_2"):
        relprop.explain(model, x, record=("inner",))
    e = relprop.explain(model, x, 0, "lrp_zero", record=("inner_1", "inner_2"))
    assert not torch.equal(e.recorded["inner_1"], e.recorded["inner_2"])


def test_ledger_prints_and_accounts_by_op() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    e = relprop.explain(model, x, 1, "epsilon", epsilon=0.5, ledger=True)
    top = e.ledger.by_op[0]
    assert (top.module, top.op, top.rule) == ("2", "linear", "epsilon")
    a, z = torch.relu(model[0](x)), model(x)[:, 1]
    scale = 0.5 * model(x).square().mean(1).sqrt() * z.sign()
    close(top.bias, (model[2].bias[1] * z / (z + scale)).detach())
    close(top.epsilon, (scale * z / (z + scale)).detach())
    close(top.passed, ((a @ model[2].weight[1]) * z / (z + scale)).detach())
    text = str(e.ledger)
    assert "linear" in text
    assert "score" in text
    assert e.ledger.closes()
    e.ledger.input += 1e-3
    assert not e.ledger.closes()


def test_examine_never_raises_for_a_missing_rule() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x).flatten(1)

    report = relprop.examine(Odd(), torch.eye(3)[None].repeat(2, 1, 1))
    assert not report.ready
    assert any("test_program.py" in m and "linalg_inv" in m for m in report.missing)
    good = relprop.examine(nn.Linear(3, 2), torch.randn(1, 3))
    assert good.ready
    assert good.ops == {"linear": 1}
    unmatched = relprop.examine(nn.Linear(3, 2), torch.randn(1, 3), Composite([("nowhere", rules.flat)]))
    assert len(unmatched.unmatched) == 1
    assert "path('nowhere') matches nothing" in unmatched.unmatched[0]
