"""Capturing: inputs of any structure, any batch size, every kind of weight, and names that lead back to the user's code.

The maps are compared with gradient × input, which LRP-0 equals on networks of affine layers, ReLU and max-pooling.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from checks import check_same_map, check_sums_to
from nets import Net, convolutional, dense, gradient_times_input, images, rows
from relprop.capture import capture
from relprop.errors import InputError, RelpropError
from relprop.graph import module_path, source_line

RTOL = 1e-9


def lrp_zero(model: nn.Module, x: Tensor) -> Tensor:
    return relprop.explain(model, x, composite="lrp_zero").relevance


def check_is_gradient_times_input(model: nn.Module, x: Tensor) -> None:
    check_same_map(lrp_zero(model, x), gradient_times_input(model, (x,))[0], rtol=RTOL)


# Inputs


class Two(nn.Module):
    """Two inputs, a number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.f, self.g, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 3)
        self.double().eval()

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(torch.relu(self.f(a) + scale * self.g(b)))


class Nested(nn.Module):
    """Inputs inside a dict and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.two = Two()

    def forward(self, a: Tensor, rest: dict[str, list[Tensor | float]]) -> Tensor:
        return self.two(a, *rest["b"])


def test_positional_inputs() -> None:
    a, b = rows(), rows(width=3)
    expected = gradient_times_input(Two(), (a, b))
    for inputs in ((a, b), [a, b]):
        actual = relprop.explain(Two(), inputs, composite="lrp_zero").relevance
        assert isinstance(actual, tuple)
        check_same_map(actual[0], expected[0], rtol=RTOL)
        check_same_map(actual[1], expected[1], rtol=RTOL)


@pytest.mark.parametrize("names", ["a b", "b a"])
def test_inputs_by_keyword_in_any_order(names: str) -> None:
    inputs = {"a": rows(), "b": rows(width=3)}
    expected = gradient_times_input(Two(), tuple(inputs.values()))
    given = {k: inputs[k] for k in names.split()}
    actual = relprop.explain(Two(), given, composite="lrp_zero").relevance
    assert isinstance(actual, dict)
    assert sorted(actual) == ["a", "b"]
    check_same_map(actual["a"], expected[0], rtol=RTOL)
    check_same_map(actual["b"], expected[1], rtol=RTOL)


def test_numbers_among_the_inputs_are_part_of_the_function() -> None:
    a, b = rows(), rows(width=3)
    for scale in (2.0, -0.5):
        expected = gradient_times_input(Two(), (a, b, scale))
        actual = relprop.explain(Two(), (a, b, scale), composite="lrp_zero").relevance
        check_same_map(actual[1], expected[1], rtol=RTOL)


def test_nested_inputs_give_nested_relevance() -> None:
    a, b = rows(), rows(width=3)
    expected = gradient_times_input(Nested(), (a, {"b": [b, 2.0]}))
    explainer = relprop.Explainer(Nested(), (a, {"b": [b, 2.0]}), "lrp_zero")
    actual = explainer((a, {"b": [b, 2.0]})).relevance
    check_same_map(actual[0], expected[0], rtol=RTOL)
    check_same_map(actual[1]["b"][0], expected[1], rtol=RTOL)
    with pytest.raises(InputError, match="structure"):
        explainer((a, {"b": [b, 3.0]}))  # another function than the captured one


def test_an_input_all_samples_share() -> None:
    model = Net(lambda m, x, w: m.net(x + w), net=dense())
    x, w = rows(), rows(1)
    for shared in (w, w[0]):
        e = relprop.explain(model, (x, shared), composite="lrp_zero", ledger=True)
        for actual, expected in zip(e.relevance, gradient_times_input(model, (x, shared)), strict=True):
            check_same_map(actual, expected, rtol=RTOL)
        check_sums_to(e.ledger.total.sum(0, True), e.score.sum(0, True), rtol=RTOL)  # its share is the batch's


# Batch sizes


def count_exports(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every later call of torch.export adds an entry."""
    calls: list[object] = []
    export = relprop.capture.export

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        return export(*args, **kwargs)

    monkeypatch.setattr(relprop.capture, "export", counted)
    return calls


class Reshaping(nn.Module):
    """The batch size in Python, as users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convolutional()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(n, h * w, c).transpose(1, 2).view(x.size(0), c, h, -1)
        return self.net(x).view(n, -1)


@pytest.mark.parametrize("captured", [1, 5])
@pytest.mark.parametrize("model", [convolutional(), Reshaping()], ids=["plain", "reshaping"])
def test_one_capture_serves_every_batch_size(model: nn.Module, captured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = torch.cat([gradient_times_input(model, (x[None],))[0] for x in images(7)])
    calls = count_exports(monkeypatch)
    explainer = relprop.Explainer(model, images(captured), "lrp_zero")
    for samples in (1, 2, 3, 7):
        check_same_map(explainer(images(samples)).relevance, alone[:samples], rtol=RTOL)
    assert len(calls) == 1


def test_code_that_loops_over_the_samples_works_for_each_batch_size() -> None:
    model = Net(lambda m, x: torch.stack([m.net(row) * (i + 1) for i, row in enumerate(x)]), net=dense())
    explainer = relprop.Explainer(model, rows(2), "lrp_zero")
    for samples in (2, 1, 3, 2):
        x = rows(samples)
        check_same_map(explainer(x).relevance, gradient_times_input(model, (x,))[0], rtol=RTOL)


@pytest.mark.parametrize("captured", [1, 2, 6])
def test_code_that_depends_on_the_batch_size_is_explained_as_it_runs(captured: int) -> None:
    model = Net(
        lambda m, x: m.one(x) if x.shape[0] == 1 else m.few(x) if x.shape[0] < 5 else m.many(x),
        one=dense(), few=nn.Linear(4, 3), many=nn.Linear(4, 3),
    )  # fmt: skip
    explainer = relprop.Explainer(model, rows(captured), "lrp_zero")
    for samples in (1, 2, 6):
        e = explainer(rows(samples))
        check_same_map(e.output, model(rows(samples)).detach(), rtol=RTOL)


def test_code_with_a_fixed_batch_size_refuses_others_and_says_why() -> None:
    model = Net(lambda m, x: m.net(x.view(2, 4)), net=dense())
    check_is_gradient_times_input(model, rows(2))
    explainer = relprop.Explainer(model, rows(2), "lrp_zero")
    with pytest.raises(InputError, match=r"\(3, 4\).*(invalid|shape)"):
        explainer(rows(3))


def test_a_model_that_squeezes_a_batch_of_one_away_is_refused() -> None:
    model = Net(
        lambda m, x: m.head(m.net(x).mean((2, 3), keepdim=True).squeeze()),
        net=convolutional()[:3], head=nn.Linear(4, 5),
    )  # fmt: skip
    check_is_gradient_times_input(model, images(3))
    for call in (lambda: lrp_zero(model, images(1)), lambda: relprop.Explainer(model, images(3))(images(1))):
        with pytest.raises(RelpropError, match=r"\(5,\)"):  # the output has no batch dimension
            call()


# Weights and modes


def test_a_model_in_training_mode_is_explained_in_evaluation_mode() -> None:
    model = nn.Sequential(convolutional(), nn.Dropout(0.5)).train()
    check_is_gradient_times_input(model, images(3))


def test_frozen_parameters_and_inputs_that_want_a_gradient() -> None:
    model = convolutional()
    model[0].requires_grad_(False)
    check_is_gradient_times_input(model, images(3))
    x = images(3).requires_grad_()
    check_same_map(lrp_zero(model.requires_grad_(False), x).detach(), gradient_times_input(model, (x,))[0], rtol=RTOL)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_gradient_mode(mode: type) -> None:
    expected = gradient_times_input(dense(), (rows(),))[0]
    with mode():
        actual = lrp_zero(dense(), rows())
    check_same_map(actual.clone(), expected, rtol=RTOL)


class Tied(nn.Module):
    """Two layers, one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(9)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_tied_weights() -> None:
    check_is_gradient_times_input(Tied(), rows())


def test_one_layer_called_twice() -> None:
    check_is_gradient_times_input(Net(lambda m, x: m.f(torch.relu(m.f(x))), f=nn.Linear(4, 4)), rows())


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).transpose(-1, -2)


PARAMETRIZED = {
    "weight_norm (hook)": lambda m: nn.utils.weight_norm(m),
    "weight_norm": lambda m: nn.utils.parametrizations.weight_norm(m),
    "spectral_norm (hook)": lambda m: nn.utils.spectral_norm(m),
    "spectral_norm": lambda m: nn.utils.parametrizations.spectral_norm(m),
    "custom": lambda m: nn.utils.parametrize.register_parametrization(m, "weight", Symmetric()),
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("how", PARAMETRIZED)
def test_parametrized_weights_equal_plain_ones(how: str) -> None:
    torch.manual_seed(10)
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
    model = nn.Sequential(PARAMETRIZED[how](nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3)).double().eval()
    model(rows())  # lets the hooks compute the weight
    plain[0].weight.data, plain[0].bias = model[0].weight.detach().clone(), model[0].bias
    plain[2] = model[2]
    expected = relprop.explain(plain, rows(), composite="gamma").relevance
    check_same_map(relprop.explain(model.train(), rows(), composite="gamma").relevance, expected, rtol=RTOL)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-3), (torch.bfloat16, 0.01), (torch.float16, 0.01)]
)
def test_every_floating_point_type(dtype: torch.dtype, rtol: float) -> None:
    e = relprop.explain(convolutional().to(dtype), images(3).to(dtype), composite="epsilon", ledger=True)
    assert e.relevance.dtype is torch.promote_types(dtype, torch.float32)  # relevance of half precision is float32
    assert e.output.dtype is dtype
    assert e.ledger.closes(rtol)


# Models that do more than compute


@pytest.mark.parametrize("inplace", [False, True])
def test_ops_in_place(inplace: bool) -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.f(x)
        y *= 2.0
        y += x
        y = F.relu(y, inplace=inplace)
        return m.g(y)

    check_is_gradient_times_input(Net(forward, f=nn.Linear(4, 4), g=nn.Linear(4, 3)), rows())


def test_ops_in_place_on_a_part_of_a_tensor() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.f(x)
        y[:, 1:] += x[:, :3]
        y[:, 0] = x[:, 3]
        return m.g(torch.relu(y))

    check_is_gradient_times_input(Net(forward, f=nn.Linear(4, 4), g=nn.Linear(4, 3)), rows())


def test_a_model_that_changes_its_input_in_place() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        x.sub_(0.5).mul_(2.0)
        return m.net(x)

    check_is_gradient_times_input(Net(forward, net=dense()), rows())
    check_is_gradient_times_input(nn.Sequential(nn.ReLU(inplace=True), *dense()), rows())


class Counting(nn.Module):
    """Buffers that change at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x) * self.calls


def test_buffers_changed_by_forward_count_from_the_models_own_state_at_every_call() -> None:
    model = Counting()
    expected = gradient_times_input(model, (rows(),))[0]
    explainer = relprop.Explainer(model, rows(), "lrp_zero")
    for _ in range(2):
        check_same_map(explainer(rows()).relevance, expected, rtol=RTOL)
    assert model.calls == 0


def test_forward_hooks_are_part_of_the_function() -> None:
    model = dense()
    model[1].register_forward_hook(lambda module, args, out: out * torch.arange(6))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] - 1.0,))
    check_is_gradient_times_input(model, rows())


# Names


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
        self.head = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image)
        x = F.softplus(x)
        return self.head(x.mean((2, 3)))


def test_module_paths_and_source_lines_are_the_users() -> None:
    graph = capture(Named(), images(2).float()).module.graph
    found = {n.target.__name__.split(".")[0]: n for n in graph.nodes if n.op == "call_function"}
    paths = {op: module_path(n) for op, n in found.items() if op in ("conv2d", "relu", "softplus", "mean", "linear")}
    assert paths == {"conv2d": "features.0", "relu": "features.1", "softplus": "", "mean": "", "linear": "head"}
    for op, line in {
        "conv2d": "x = self.features(image)",
        "softplus": "x = F.softplus(x)",
        "linear": "return self.head(x.mean((2, 3)))",
    }.items():
        file, number, text = source_line(found[op]).split(":", 2)
        assert file.endswith("test_capture.py")
        assert text.strip() == line
        with open(file, encoding="utf-8") as f:
            assert f.read().splitlines()[int(number) - 1].strip() == line


def test_the_rule_table_speaks_of_the_users_modules() -> None:
    explainer = relprop.Explainer(Named(), {"image": images(2).float()}, "epsilon")
    modules = [r["module"] for r in explainer.rules]
    assert modules == ["features.0", "features.1", "", "", "head"]
    assert "x_image" in explainer.code
    assert "R_features_0" in explainer.code


def test_a_line_of_a_project_in_a_folder_called_relprop_is_the_users() -> None:
    trace = f"""  File "/home/me/relprop/torch/net.py", line 3, in forward
    x = self.f(x)
  File "{torch.__path__[0]}/nn/functional.py", line 1, in relu
    return torch.relu(x)"""
    assert relprop.graph.line_of(trace) == "/home/me/relprop/torch/net.py:3: x = self.f(x)"
