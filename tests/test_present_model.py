"""An explainer follows the model: its present weights at every call, from several threads at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map
from nets import Net, convolutional, dense, gradient_times_input, images, rows
from relprop.errors import CaptureError, InputError, NonFiniteError, TargetError

RTOL = 1e-9


def lrp_zero(model: nn.Module, x: Tensor) -> Tensor:
    return relprop.explain(model, x, composite="lrp_zero").relevance


def test_two_threads_explain_one_model_at_once() -> None:
    model, batches = convolutional().train(), images(7).split(1)
    expected = [gradient_times_input(model, (x,))[0] for x in batches]
    explainer = relprop.Explainer(model, batches[0], "lrp_zero")
    with ThreadPoolExecutor(2) as pool:
        fresh = list(pool.map(lambda x: lrp_zero(model, x), batches[:4]))
        shared = list(pool.map(lambda x: explainer(x).relevance, batches * 3))
    for actual, wanted in zip(fresh + shared, expected[:4] + expected * 3, strict=True):
        check_same_map(actual, wanted, rtol=RTOL)
    assert all(m.training for m in model.modules())


def test_checks_hold_when_another_thread_captures() -> None:
    """torch.export says "compiling" to the whole process; values must be checked all the same."""
    explainers = [
        relprop.Explainer(dense(), rows(), "epsilon"),
        relprop.Explainer(dense(), rows(), "deep_taylor", low=-9.0, high=9.0),
    ]
    calls: list[Future[relprop.Explanation]] = []
    x, outside = rows(), 100 * rows()
    with ThreadPoolExecutor(2) as others:

        def forward(m: Net, traced: Tensor) -> Tensor:
            if type(traced) is not Tensor and not calls:  # while it is exported
                calls.append(others.submit(explainers[0], x, target=9))
                calls.append(others.submit(explainers[1], outside))
            return m.net(traced)

        lrp_zero(Net(forward, net=dense()), x)
        assert [type(c.exception(60)) for c in calls] == [TargetError, InputError]


def in_place(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight.mul_(-2)


def by_data(model: nn.Sequential) -> None:
    model[0].weight.data.mul_(-2)  # as older code randomizes weights: torch counts no version


def by_state_dict(model: nn.Sequential) -> None:
    torch.manual_seed(1)
    model.load_state_dict(
        {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    )


def by_new_parameter(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(-model[0].weight.detach())


def by_statistics(model: nn.Sequential) -> None:
    model[1].running_mean += 1


def by_training(model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()(images(3)).square().sum().backward()
    optimizer.step()


def by_new_module(model: nn.Sequential) -> None:
    model[3] = nn.AvgPool2d(2)


@pytest.mark.parametrize(
    "change", [in_place, by_data, by_state_dict, by_new_parameter, by_statistics, by_training, by_new_module]
)
def test_a_call_uses_the_models_present_weights(change: Callable[[nn.Module], None]) -> None:
    model = convolutional()
    explainer = relprop.Explainer(model, images(3), "lrp_zero")
    old = explainer(images(3)).relevance
    change(model)
    new = explainer(images(3)).relevance
    check_same_map(new, gradient_times_input(model, (images(3),))[0], rtol=RTOL)
    assert not torch.allclose(old, new)


def test_rules_of_a_model_that_can_no_longer_be_captured() -> None:
    model = dense()
    explainer = relprop.Explainer(model, rows(), "epsilon")
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        explainer(rows())
    with pytest.raises(CaptureError, match="could not be captured anew"):
        print(explainer.rules)
