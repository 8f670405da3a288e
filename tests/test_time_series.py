"""Relevance of frequencies against explicit sums over sines, targets of forecasts, and the picture of a series."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from checks import check_same_map, check_sums_to
from relprop.errors import InputError, TargetError
from relprop.forecast import Forecast, windows
from relprop.show.series import series
from relprop.spectral import dft_relevance, stft_relevance
from relprop.targets import Contrast


def signal(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)


def of_frequencies(x: list[float], R: list[float]) -> list[float]:
    """LRP-0 through x_n = Σ_k c_kn, c_kn = Re(Y_k exp(2πi kn/N)) / N: R_k = Σ_n c_kn / x_n · R_n."""
    N = len(x)
    Y = [sum(v * cmath.exp(-2j * math.pi * k * n / N) for n, v in enumerate(x)) for k in range(N)]
    return [
        sum((Y[k] * cmath.exp(2j * math.pi * k * n / N)).real / N / x[n] * R[n] for n in range(N)) for k in range(N)
    ]


@pytest.mark.parametrize("N", [1, 2, 7, 8])
def test_relevance_of_frequencies_is_lrp_0_through_the_inverse_transform(N: int) -> None:
    x, R = signal(N)
    expected = of_frequencies(x.tolist(), R.tolist())
    check_same_map(dft_relevance(x, R, sided="two"), torch.tensor(expected, dtype=torch.float64), rtol=1e-12)
    one = [expected[0]] + [expected[k] + (expected[N - k] if N - k != k else 0) for k in range(1, N // 2 + 1)]
    check_same_map(dft_relevance(x, R), torch.tensor(one, dtype=torch.float64), rtol=1e-12)


def test_it_equals_relprops_own_lrp_0() -> None:
    """The inverse transform as a linear layer of cosines and sines, in front of a network."""
    N = 12
    net = nn.Sequential(nn.Linear(N, 6, bias=False), nn.ReLU(), nn.Linear(6, 1, bias=False)).double()
    turn = 2 * math.pi * torch.arange(N, dtype=torch.float64)[:, None] * torch.arange(N, dtype=torch.float64) / N
    inverse = nn.Linear(2 * N, N, bias=False).double()
    inverse.weight.data = torch.cat([turn.cos(), -turn.sin()], 1) / N
    x, _ = signal(3, N)
    Y = torch.fft.fft(x)
    through = relprop.explain(nn.Sequential(inverse, net), torch.cat([Y.real, Y.imag], 1), 0, "lrp_zero").relevance
    R = relprop.explain(net, x, 0, "lrp_zero").relevance
    check_same_map(dft_relevance(x, R, sided="two"), through[:, :N] + through[:, N:], rtol=1e-9)


@pytest.mark.parametrize("sided", ["one", "two"])
@pytest.mark.parametrize("N", [9, 16])
def test_it_conserves(sided: Any, N: int) -> None:
    x, R = signal(4, N, 3)
    found = dft_relevance(x, R, dim=1, sided=sided)
    assert found.shape == (4, N // 2 + 1 if sided == "one" else N, 3)
    check_sums_to(found.sum((1, 2)), R.sum((1, 2)), rtol=1e-12)
    alone = dft_relevance(x[1, :, 2], R[1, :, 2], sided=sided)
    check_same_map(found[1, :, 2], alone, rtol=1e-12)


def test_an_oscillation_gets_what_belongs_to_it() -> None:
    """R = x · (c cos) has the energy of the cosine in x, c · a / 2 · N, at its frequency and nowhere else."""
    n = torch.arange(40, dtype=torch.float64)
    slow, fast = torch.cos(2 * torch.pi * 3 * n / 40), torch.sin(2 * torch.pi * 8 * n / 40)
    x = 0.31 + 2 * slow + 0.5 * fast
    found = dft_relevance(x, x * slow)
    assert round(float(found[3]), 9) == 40.0  # 2 / 2 · 40
    found[3] = 0
    assert found.abs().max() < 1e-12


def test_zeros_of_the_signal() -> None:
    x, R = torch.tensor([1.0, 0.0, -2.0, 0.5]), torch.tensor([1.0, 0.0, 3.0, 1.0])
    check_sums_to(dft_relevance(x, R).sum()[None], R.sum()[None], rtol=1e-6)
    with pytest.raises(
        InputError, match=r"1 of 4 steps, first \(1,\), the signal is 0 but has relevance \(0\.5 in sum\)"
    ):
        dft_relevance(x, R + torch.tensor([0.0, 0.5, 0.0, 0.0]))


@pytest.mark.parametrize(("window", "hop"), [(8, 4), (8, None), (8, 2), (7, 3), (20, 10)])
def test_short_windows_conserve(window: int, hop: int | None) -> None:
    x, R = signal(2, 20, 3)
    for sided, kept in (("one", window // 2 + 1), ("two", window)):
        found = stft_relevance(x, R, window=window, hop=hop, dim=1, sided=sided)
        assert found.shape[0] == 2
        assert found.shape[2:] == (kept, 3)
        check_same_map(found.sum((1, 2)), R.sum(1), rtol=1e-9)


def test_a_window_s_relevance_by_hand() -> None:
    """R_τk = Re(Z_τk conj(FFT(R / (x W)))) / M, for windows of ones side by side and half overlapping."""
    x, R = signal(8)
    apart = stft_relevance(x, R, window=torch.ones(4), hop=4, sided="two")
    check_same_map(
        apart,
        torch.stack([dft_relevance(p, r, sided="two") for p, r in zip(x.split(4), R.split(4), strict=True)]),
        rtol=1e-12,
    )
    # each step lies under two windows: the middle one, steps 2 … 5, has half of its steps' relevance
    half = stft_relevance(x, R, window=torch.ones(4), hop=2, sided="two")
    assert half.shape == (5, 4)
    check_same_map(half[2], dft_relevance(x[2:6], R[2:6] / 2, sided="two"), rtol=1e-12)


def test_short_windows_say_when() -> None:
    """A tone in the second half alone."""
    n = torch.arange(64, dtype=torch.float64)
    x = 0.01 * torch.cos(2 * torch.pi * n / 16) + torch.where(n >= 32, torch.cos(2 * torch.pi * n / 4 + 0.3), 0.0)
    found = stft_relevance(x, x * x, window=16, hop=8)
    tone = found[:, 3:6].sum(1) / found.sum()
    assert tone[:4].abs().max() < 1e-3  # windows that end at step 32
    assert tone[5:].sum() > 0.8


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("signal has 6 steps, the window 8", lambda: stft_relevance(torch.ones(6), torch.ones(6), window=8)),
        ("window=1", lambda: stft_relevance(torch.ones(6), torch.ones(6), window=1)),
        ("hop=9", lambda: stft_relevance(torch.ones(16), torch.ones(16), window=8, hop=9)),
        ("leave steps .* out", lambda: stft_relevance(torch.ones(16), torch.ones(16), window=8, hop=8)),
        ("window is .2, 2.", lambda: stft_relevance(torch.ones(16), torch.ones(16), window=torch.ones(2, 2))),
        ("give two of one shape", lambda: dft_relevance(torch.ones(6), torch.ones(5))),
        ("int64", lambda: dft_relevance(torch.ones(6).long(), torch.ones(6))),
        ("R holds NaN", lambda: dft_relevance(torch.ones(6), torch.ones(6) * torch.nan)),
        ("sided='both'", lambda: dft_relevance(torch.ones(6), torch.ones(6), sided="both")),  # type: ignore[arg-type]
        ("infinite", lambda: dft_relevance(torch.tensor([1e-40]), torch.tensor([1e30]))),
        ("tensors", lambda: dft_relevance([1.0], [1.0])),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_refusals(words: str, call: Any) -> None:
    with pytest.raises(InputError, match=words):
        call()


# forecasts


class Forecaster(nn.Module):
    """Two channels, three steps ahead, from the last hidden state."""

    def __init__(self, *, channels: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.lstm, self.head = nn.LSTM(2, 5, batch_first=True, bias=False), nn.Linear(5, 3 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.lstm(x)[0][:, -1])
        return out.unflatten(1, (3, self.channels)) if self.channels > 1 else out


def test_one_step_of_one_channel() -> None:
    torch.manual_seed(0)
    model, x = Forecaster().double(), torch.randn(4, 10, 2, dtype=torch.float64)
    with torch.no_grad():
        output = model(x)
    explainer = relprop.Explainer(model, x, "epsilon", epsilon=0.0)
    for step, channel in ((0, 0), (2, 1), (-1, -1), (1, 0)):
        e = explainer(x, target=Forecast(step, channel))
        torch.testing.assert_close(e.score, output[:, step, channel])
        seed = torch.zeros_like(output)
        seed[:, step, channel] = output[:, step, channel]
        assert torch.equal(e.relevance, explainer(x, target=seed).relevance)
        check_sums_to(e.relevance.sum((1, 2)), e.score, rtol=1e-9)


def test_one_channel_and_parts_of_a_batch() -> None:
    torch.manual_seed(0)
    model, x = Forecaster(channels=1).double(), torch.randn(5, 10, 2, dtype=torch.float64)
    whole = relprop.explain(model, x, Forecast(-2), "epsilon")
    parts = relprop.explain(model, x, Forecast(-2), "epsilon", max_batch=2)
    check_same_map(parts.relevance, whole.relevance, rtol=1e-9)
    assert torch.equal(Forecast(1)(torch.arange(6.0).reshape(2, 3, 1)), torch.tensor([1.0, 4.0]))


@pytest.mark.parametrize(
    ("words", "target", "shape"),
    [
        ("step=3 is out of range: .* 3 steps, 0 to 2, or -1 to -3", Forecast(3, 0), (4, 3, 2)),
        ("step=-4 is out of range", Forecast(-4, 0), (4, 3, 2)),
        ("channel=2 is out of range", Forecast(0, 2), (4, 3, 2)),
        ("forecasts 2 channels; say which", Forecast(0), (4, 3, 2)),
        ("has one channel", Forecast(0, 1), (4, 3)),
        ("not .samples, steps.", Forecast(0), (4,)),
        ("not .samples, steps.", Forecast(0), (4, 3, 2, 2)),
    ],
)
def test_a_forecast_that_is_not_there(words: str, target: Forecast, shape: tuple[int, ...]) -> None:
    with pytest.raises(TargetError, match=words):
        target(torch.zeros(shape))


@pytest.mark.parametrize(
    "options",
    [
        {"step": 1.0},
        {"step": np.float64(1)},
        {"step": np.bool_(True)},
        {"step": True},
        {"step": None},
        {"channel": "demand"},
        {"channel": False},
    ],
)
def test_an_index_that_is_none(options: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match="give a whole number"):
        Forecast(**options)


def test_whole_numbers_of_numpy_are_indices() -> None:
    target = Forecast(np.int64(1), channel=np.int32(-1))
    assert target == Forecast(1, channel=-1)
    assert type(target.step) is int
    assert type(target.channel) is int


@pytest.mark.parametrize("series", [np.arange(12.0).reshape(6, 2), np.arange(12.0).reshape(6, 2)[::-1], [1, 2, 3, 4]])
def test_stretches_of_an_array_or_a_list(series: Any) -> None:
    past, future = windows(series, np.int64(2), 1)
    assert past.tolist() == [[t.tolist() for t in np.asarray(series)[i : i + 2]] for i in range(len(series) - 2)]
    assert future.tolist() == [[np.asarray(series)[i + 2].tolist()] for i in range(len(series) - 2)]


@pytest.mark.parametrize("series", [None, 3, "series", np.array(["a", "b"]), [1, "a"], [[1.0, 2.0], [3.0]]])
def test_a_series_without_numbers(series: Any) -> None:
    with pytest.raises(InputError, match=r"the series (is a|holds values that are no numbers)"):
        windows(series, 1, 1)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("window is a float; give a whole number", {"window": 2.5}),
        ("window is a str", {"window": "a"}),
        ("window is a bool", {"window": True}),
        ("window is a ndarray; .* as a real tensor", {"window": np.ones(4)}),
        ("window is a tensor of torch.complex64", {"window": torch.ones(4, dtype=torch.complex64)}),
        ("weights .M,. that are >= 0", {"window": torch.tensor([1.0, math.inf])}),
        ("hop=1.5: .* whole number of steps, 1 to 4", {"window": 4, "hop": 1.5}),
        ("hop='a'", {"window": 4, "hop": "a"}),
        ("dim=9: the signal, .2, 8., .* -2 to 1", {"window": 4, "dim": 9}),
        ("dim='a'", {"window": 4, "dim": "a"}),
    ],
)
def test_what_no_short_windows_can_be_made_of(words: str, options: dict[str, Any]) -> None:
    x, R = signal(2, 8)
    with pytest.raises(InputError, match=words):
        stft_relevance(x, R, **options)
    if "dim" in options:
        with pytest.raises(InputError, match=words):
            dft_relevance(x, R, dim=options["dim"])


def test_lengths_of_windows_may_be_numbers_of_numpy() -> None:
    x, R = signal(2, 8)
    given = stft_relevance(x, R, window=np.int64(4), hop=np.int64(2), dim=np.int64(1))
    assert torch.equal(given, stft_relevance(x, R, window=4, hop=2, dim=1))


def test_stretches_of_a_series() -> None:
    past, future = windows(torch.arange(20.0).reshape(10, 2), 4, 3, stride=2)
    assert past.shape == (2, 4, 2)
    assert future.shape == (2, 3, 2)
    assert past[1, 0].tolist() == [4.0, 5.0]
    assert future[1, -1].tolist() == [16.0, 17.0]
    with pytest.raises(InputError, match="6 steps; a window of 5 and the 2 to forecast need 7"):
        windows(torch.zeros(6, 2), 5, 2)
    with pytest.raises(InputError, match="length=0"):
        windows(torch.zeros(6), 0, 2)
    with pytest.raises(InputError, match="time, channels"):
        windows(torch.zeros(6, 2, 2), 2, 2)


# the picture


def test_the_map_has_a_row_a_channel(tmp_path: Any) -> None:
    x, R = torch.randn(12, 2), torch.zeros(12, 2)
    R[3, 1], R[11, 0] = -2.0, 1.0
    picture = series(x, R, names=["load", "wind"], future=np.full((3, 2), np.nan), forecast=np.ones((3, 2)), score=-1.0)
    above, below = picture.axes
    colours = np.asarray(below.images[0].get_array())
    assert colours.shape == (2, 12, 3)
    assert colours[1, 3].tolist() == [0, 0, 255]
    assert colours[0, 11].tolist() == [255, 127, 127]  # half of the scale
    assert colours[0, 3].tolist() == [255, 255, 255]
    caption = below.get_xlabel()
    assert "load 1   wind -2" in caption
    assert "all -1   score -1" in caption
    assert above.get_xlim() == below.get_xlim()
    assert above.get_xlim()[1] >= 14  # the forecast is in sight
    picture.savefig(tmp_path / "series.png")
    assert (tmp_path / "series.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("one shape", {"relevance": np.ones((4, 2))}),
        ("of one sample", {"signal": np.ones((2, 5, 2))}),
        ("names", {"names": ["a", "b"]}),
        ("future has 2 channels", {"future": np.ones((3, 2))}),
        ("relevance holds NaN", {"relevance": np.full(5, np.nan)}),
    ],
)
def test_the_picture_refuses(words: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=words):
        series(**({"signal": np.ones(5), "relevance": np.ones(5)} | options))


@pytest.mark.parametrize("end", [nn.Sigmoid(), nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_forecast_in_front_of_a_last_function_is_refused(end: nn.Module) -> None:
    """relprop explains the logits of such a model, of which the forecast is a function."""
    model, x = nn.Sequential(nn.Linear(4, 6), end), torch.randn(2, 4)
    for target in (Forecast(0), [1, Forecast(0)], Contrast(Forecast(0), Forecast(1))):
        with pytest.raises(
            TargetError, match=r"Forecast is a value of the output, but this model ends in a .*in front"
        ):
            relprop.explain(model, x, target)
    with pytest.raises(TargetError, match="Forecast is a value of the output"):
        relprop.explain(model, x, Forecast(0), max_batch=1)
    assert relprop.explain(model[0], x, Forecast(0)).score.shape == (2,)
