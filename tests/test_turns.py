"""Threads: while one captures a model, no other reads modules or sizes; programs run side by side."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map
from nets import Net, dense, images, rows
from relprop.turns import Turns, alone, together

SOON, NEVER = 0.2, 30.0  # seconds: long enough to be seen waiting; longer than any of this takes


def waits(call: Future[Any]) -> bool:
    time.sleep(SOON)
    return not call.done()


def test_one_alone_or_any_number_together() -> None:
    turns, met, left = Turns(), threading.Barrier(3), threading.Event()

    def run() -> None:
        with turns.together(), turns.together():
            met.wait(NEVER)  # an error, if the three cannot be here at once
            left.wait(NEVER)

    def capture() -> bool:
        with turns.alone(), turns.alone(), turns.together():
            return left.is_set()

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(run) for _ in range(2)]
        with turns.together():
            met.wait(NEVER)
        writer = pool.submit(capture)
        assert waits(writer)
        left.set()
        assert writer.result(NEVER)
        [f.result(NEVER) for f in runs]


def test_who_waits_to_be_alone_comes_before_who_comes_later() -> None:
    turns, here, left = Turns(), threading.Event(), threading.Event()
    order: list[str] = []

    def hold() -> None:
        with turns.together():
            here.set()
            left.wait(NEVER)

    def enter(name: str) -> None:
        with turns.alone() if name == "alone" else turns.together():
            order.append(name)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(hold)
        assert here.wait(NEVER)
        calls = [pool.submit(enter, "alone")]
        while not turns._waiting:
            time.sleep(0.01)
        calls.append(pool.submit(enter, "together"))
        assert waits(calls[1])
        assert not order
        left.set()
        [c.result(NEVER) for c in calls]
    assert order == ["alone", "together"]


def test_a_run_that_asks_to_be_alone_stands_still_meanwhile() -> None:
    turns, met = Turns(), threading.Barrier(2)

    def upgrade() -> None:
        with turns.together():
            met.wait(NEVER)  # both run together now: neither could be alone while the other runs
            with turns.alone(), turns.alone():
                pass
            with turns.together():
                pass

    with ThreadPoolExecutor(2) as pool:
        [f.result(NEVER) for f in [pool.submit(upgrade) for _ in range(2)]]
    with turns.alone():
        pass


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    for turn in (turns.alone, turns.together):
        with pytest.raises(ZeroDivisionError), turn(), turn():
            raise ZeroDivisionError
    with ThreadPoolExecutor(1) as pool:

        def enter() -> bool:
            with turns.alone():
                return True

        assert pool.submit(enter).result(NEVER)


class Traced(nn.Module):
    """A model that says when torch traces it, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense()
        self.plain = nn.Module.__getattr__
        self.patched: list[bool] = []
        self.meanwhile: list[Future[Any]] = []
        self.begin: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Traced:
        other = Traced()
        other.net, other.begin, other.patched, other.meanwhile = self.net, self.begin, self.patched, self.meanwhile
        return other

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting() and self.begin is not None and not self.meanwhile:
            self.meanwhile.append(self.begin())
            self.patched += [nn.Module.__getattr__ is not self.plain, waits(self.meanwhile[0])]
        return self.net(x)


@pytest.mark.parametrize("what", ["run", "program", "capture", "examine", "network"])
def test_nothing_runs_while_torch_traces_a_model_in_another_thread(what: str) -> None:
    x, other = rows(), dense()
    ready, fitted = relprop.Explainer(other, x, "epsilon"), line()
    expected = ready(x).relevance
    of_line = relprop.explain(fitted, x.numpy()).relevance
    calls: dict[str, Any] = {
        "run": lambda: ready(x).relevance,
        "program": lambda: ready(x, ledger=True).relevance,
        "capture": lambda: relprop.explain(other, x, composite="epsilon").relevance,
        "examine": lambda: relprop.examine(other, x).ready,
        "network": lambda: relprop.explain(fitted, x.numpy()).relevance,
    }
    model = Traced()
    with ThreadPoolExecutor(1) as pool:
        model.begin = lambda: pool.submit(calls[what])
        relprop.explain(model, x)
        found = model.meanwhile[0].result(NEVER)
    assert model.patched == [True, True], "not traced as this test believes, or not waited for"
    if what == "examine":
        assert found is True
    else:
        check_same_map(found, of_line if what == "network" else expected, 1e-12)


def line() -> Any:
    linear = pytest.importorskip("sklearn.linear_model")
    return linear.LinearRegression().fit(rows().numpy(), rows().sum(1).numpy())


def test_many_threads_capture_and_run_at_once() -> None:
    model = Net(lambda m, x: m.net(x), net=dense())
    x = rows()
    shared = relprop.Explainer(model, x, "epsilon")
    expected = shared(x, target=1).relevance

    def explain(i: int) -> Tensor:
        if i % 3:
            return shared(x[: 1 + i % len(x)], target=1).relevance
        return relprop.explain(model, x, target=1, composite="epsilon").relevance

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(explain, range(18)))
    for i, relevance in enumerate(found):
        check_same_map(relevance, expected if i % 3 == 0 else expected[: 1 + i % len(x)], 1e-12)


def test_a_target_may_explain_while_another_thread_captures() -> None:
    model, x = dense(), rows()
    explainer = relprop.Explainer(model, x, "epsilon")
    inside = threading.Event()

    def target(output: Tensor) -> Tensor:
        inside.set()
        time.sleep(SOON)  # until the other thread waits to capture
        return output[:, 0] * (1 + 0 * explainer(images(1).new_zeros(2, x.shape[1]), target=0).score.sum())

    with ThreadPoolExecutor(2) as pool:
        nested = pool.submit(lambda: explainer(x, target=target).relevance)
        inside.wait(NEVER)
        other = pool.submit(lambda: explainer(x[:1], target=0).relevance)
        assert torch.allclose(nested.result(NEVER), explainer(x, target=0).relevance, atol=1e-12)
        assert torch.allclose(other.result(NEVER), nested.result()[:1], atol=1e-12)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    entered, left = threading.Event(), threading.Event()

    def hold() -> None:
        with alone():
            entered.set()
            left.wait(NEVER)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        entered.wait(NEVER)
        child = os.fork()
        if not child:
            with together(), alone():
                os._exit(7)
        for _ in range(100):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(SOON / 10)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        left.set()
    assert done, "the child waits for ever"
    assert os.waitstatus_to_exitcode(status) == 7
