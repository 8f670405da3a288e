"""Pixel flipping and region perturbation against loops that replace one pixel of one channel of one image at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from relprop.evaluate import Curves, draws, join, pixel_flipping, region_perturbation
from unchanged import unchanged

C, H, W = 3, 4, 5


def net(classes: int = 4) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Conv2d(C, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * H * W, classes)
    return nn.Sequential(*layers).double().eval()


def images(n: int = 3) -> Tensor:
    return torch.randn(n, C, H, W, generator=torch.Generator().manual_seed(2)).double()


def relevance(n: int = 3) -> Tensor:
    return torch.randn(n, C, H, W, generator=torch.Generator().manual_seed(3)).double()


class Recorder:
    """A model that keeps what it is given."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return self.model(x)

    @property
    def samples(self) -> int:
        return sum(len(x) for x in self.seen)


def loops(
    score: Callable[[Tensor], float],
    x: Tensor,
    other: Tensor,
    rel: Tensor,
    counts: list[int],
    highest: bool,
    region: int = 1,
) -> list[float]:
    """The curve of one image (C, H, W): units in raster order, Python's stable sort, one pixel and channel at a time."""
    channels, height, width = x.shape
    units = [
        [(i, j) for i in range(a, min(a + region, height)) for j in range(b, min(b + region, width))]
        for a in range(0, height, region)
        for b in range(0, width, region)
    ]
    sums = [sum(float(rel[c, i, j]) for i, j in unit for c in range(rel.shape[0])) for unit in units]
    order = sorted(range(len(units)), key=lambda u: -sums[u] if highest else sums[u])
    curve = []
    for count in counts:
        y = x.clone()
        for u in order[:count]:
            for i, j in units[u]:
                for c in range(channels):
                    y[c, i, j] = other[c, i, j]
        curve.append(score(y))
    return curve


def logit(model: nn.Module, k: int) -> Callable[[Tensor], float]:
    return lambda y: float(model(y[None]).detach()[0, k])


def all_loops(
    model: nn.Module, x: Tensor, other: Tensor, rel: Tensor, curves: Curves, order: str, region: int = 1
) -> Tensor:
    """Every image against the logit of the class predicted for it."""
    counts = curves.counts.tolist()
    return torch.tensor([
        loops(logit(model, int(model(x[i : i + 1]).argmax())), x[i], other[i], rel[i], counts, order == "highest", region)
        for i in range(len(x))
    ], dtype=torch.float64)  # fmt: skip


@pytest.mark.parametrize("order", ["highest", "lowest"])
@pytest.mark.parametrize("steps", [1, 7, 20, 99, range(0, 21, 5), [3, 4, 11], range(2, 9, 2)])
def test_pixels_equal_the_loops(order: str, steps: Any) -> None:
    model, x, rel = net(), images(), relevance()
    curves = pixel_flipping(model, x, rel, orders=(order,), replace=0.5, steps=steps)
    expected = all_loops(model, x, torch.full_like(x, 0.5), rel, curves, order)
    torch.testing.assert_close(curves.of("relevance", order), expected, rtol=0, atol=1e-12)
    listed = {1: [0, 20], 7: [0, 3, 6, 9, 11, 14, 17, 20], 20: list(range(21)), 99: list(range(21))}
    wanted = listed[steps] if isinstance(steps, int) else sorted({0, *steps})
    assert curves.counts.tolist() == wanted
    assert curves.fraction.tolist() == [k / 20 for k in wanted]


@pytest.mark.parametrize("region", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_regions_equal_the_loops(order: str, region: int) -> None:
    model, x, rel = net(), images(), relevance()
    curves = region_perturbation(model, x, rel, orders=(order,), replace="zero", region=region)
    assert curves.units == math.ceil(H / region) * math.ceil(W / region)
    assert curves.unit == ("pixel" if region == 1 else "region")
    expected = all_loops(model, x, torch.zeros_like(x), rel, curves, order, region)
    torch.testing.assert_close(curves.of("relevance", order), expected, rtol=0, atol=1e-12)


def test_a_region_is_9_by_9_unless_said_otherwise() -> None:
    x = torch.ones(1, 1, 20, 28)
    curves = region_perturbation(lambda x: x.sum((1, 2, 3)), x, x, orders=("highest",), replace=0)
    assert curves.units == 3 * 4  # 9 + 9 + 2 rows, 9 + 9 + 9 + 1 columns
    # whole squares of 81 first, two of the lower border 9 · 2, two of the right border, the corner of 2 last
    falls = (curves.of("relevance")[0, :-1] - curves.of("relevance")[0, 1:]).tolist()
    assert falls == [81] * 6 + [18] * 3 + [9] * 2 + [2]


def reflected(i: int, size: int) -> int:
    """Mirrored at the first and last pixel, which are not repeated."""
    period = max(1, 2 * (size - 1))
    i %= period
    return i if i < size else period - i


def blurred(image: Tensor) -> Tensor:
    """A Gaussian of σ = H/8 and W/8 up to 3 σ, pixel by pixel."""

    def weights(size: int) -> dict[int, float]:
        radius, sigma = math.ceil(3 * size / 8), size / 8
        raw = {d: math.exp(-d * d / (2 * sigma * sigma)) for d in range(-radius, radius + 1)}
        return {d: value / sum(raw.values()) for d, value in raw.items()}

    channels, height, width = image.shape
    down, across = weights(height), weights(width)
    out = torch.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                out[c, i, j] = sum(
                    down[a] * across[b] * float(image[c, reflected(i + a, height), reflected(j + b, width)])
                    for a in down for b in across
                )  # fmt: skip
    return out


CONSTANT = torch.linspace(-1, 1, C * H * W).reshape(C, H, W).double()
PER_IMAGE = torch.linspace(-2, 2, 3 * C * H * W).reshape(3, C, H, W).double()
REPLACEMENTS: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "zero": ("zero", torch.zeros_like),
    "number": (0.25, lambda x: torch.full_like(x, 0.25)),
    "mean": ("mean", lambda x: torch.stack([torch.stack([torch.full((H, W), float(c.sum()) / (H * W), dtype=torch.float64) for c in i]) for i in x])),
    "blur": ("blur", lambda x: torch.stack([blurred(image) for image in x])),
    "one image": (CONSTANT, lambda x: CONSTANT.expand_as(x)),
    "one image with a leading 1": (CONSTANT[None], lambda x: CONSTANT.expand_as(x)),
    "a value a channel": (torch.tensor([1.0, 2.0, 3.0])[:, None, None], lambda x: torch.tensor([1.0, 2.0, 3.0]).double()[:, None, None].expand_as(x)),
    "an array": (CONSTANT.numpy(), lambda x: CONSTANT.expand_as(x)),
    "all images": (PER_IMAGE, lambda x: PER_IMAGE),
    "function": (lambda x: 2 * x + 1, lambda x: 2 * x + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACEMENTS)
@pytest.mark.parametrize("batch_size", [2, 256])
def test_replacements_equal_the_loops(name: str, batch_size: int) -> None:
    replace, other = REPLACEMENTS[name]
    model, x, rel = net(), images(), relevance()
    curves = pixel_flipping(model, x, rel, orders=("lowest",), replace=replace, steps=5, batch_size=batch_size)
    expected = all_loops(model, x, other(x), rel, curves, "lowest")
    torch.testing.assert_close(
        curves.of("relevance", "lowest"), expected, rtol=0, atol=1e-6 if name == "mean" else 1e-12
    )


def test_random_replacement_is_nested_and_the_loops_agree() -> None:
    """What the model was given at the end is the replacement; every earlier input follows from it."""
    model, x, rel = net(), images(), relevance()
    recorder = Recorder(model)
    low, high = [-1.0, 0.0, 5.0], [0.0, 0.0, 9.0]
    curves = pixel_flipping(recorder, x, rel, orders=("highest",), low=low, high=high, steps=6)
    other = recorder.seen[1]  # f(x), f of the replacement, then the steps
    for c in range(C):
        assert float(other[:, c].min()) >= low[c]
        assert float(other[:, c].max()) <= high[c]
    assert len(other[:, 0].unique()) == 3 * H * W  # every pixel of every image has its own value
    torch.testing.assert_close(
        curves.of("relevance"), all_loops(model, x, other, rel, curves, "highest"), rtol=0, atol=1e-12
    )


def test_random_values_are_uniform_between_the_extremes_of_each_channel() -> None:
    x = torch.rand(64, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 4 * x[:, 1] - 3
    recorder = Recorder(lambda x: x.sum((1, 2, 3)))
    pixel_flipping(recorder, x, x, orders=("highest",), steps=1)
    for c in range(2):
        low, high = float(x[:, c].min()), float(x[:, c].max())
        unit = (recorder.seen[1][:, c] - low) / (high - low)
        assert float(unit.min()) >= 0
        assert float(unit.max()) <= 1
        shares = torch.histc(unit, 8, 0, 1) / unit.numel()  # 16384 values: standard deviation of a share 0.0026
        assert float((shares - 1 / 8).abs().max()) < 0.015


def test_the_random_order_is_a_permutation_of_its_own_for_every_image_and_common_to_all_methods() -> None:
    x = torch.zeros(4, 1, 5, 5)
    recorder = Recorder(lambda x: x.sum((1, 2, 3)))
    maps = {"a": torch.rand(4, 5, 5), "b": torch.rand(4, 5, 5)}
    curves = pixel_flipping(recorder, x, maps, orders=("random",), replace=1.0, steps=25)
    assert list(curves.values) == [("random", "random")]
    inner = recorder.seen[2:]
    assert len(inner) == 24
    orders = []
    for image in range(4):
        before, order = torch.zeros(5, 5), []
        for step in [*inner, torch.ones(4, 1, 5, 5)]:
            now = step[image, 0]
            fresh = (now - before).nonzero()
            assert len(fresh) == 1  # nested, one pixel a step
            order.append(tuple(fresh[0].tolist()))
            before = now
        orders.append(tuple(order))
    assert len(set(orders)) == 4


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7])
def test_nothing_depends_on_the_batch_size(batch_size: int) -> None:
    model, x, rel = net(), images(7), relevance(7)
    whole = pixel_flipping(model, x, rel, draws=2, seed=5)
    parts = pixel_flipping(model, x, rel, draws=2, seed=5, batch_size=batch_size)
    assert list(whole.values) == list(parts.values)
    for key in whole.values:
        torch.testing.assert_close(parts.values[key], whole.values[key], rtol=0, atol=1e-12)
    assert torch.equal(parts.target, whole.target)


@given(cut=st.integers(1, 6), seed=st.integers(-5, 5))
@settings(max_examples=10, deadline=None)
def test_nothing_depends_on_how_a_data_set_is_cut(cut: int, seed: int) -> None:
    model, x, rel = net(), images(7), relevance(7)
    options: dict[str, Any] = {"low": -1, "high": 1, "seed": seed, "steps": 4}
    whole = pixel_flipping(model, x, rel, **options, first=100)
    one = pixel_flipping(model, x[:cut], rel[:cut], **options, first=100)
    two = pixel_flipping(model, x[cut:], rel[cut:], **options, first=100 + cut)
    joined = join([one, two])
    assert joined.index.tolist() == list(range(100, 107))
    for key in whole.values:
        torch.testing.assert_close(joined.values[key], whole.values[key], rtol=0, atol=1e-12)


def test_seed_draw_and_image_each_change_the_noise_and_the_order() -> None:
    x, model = torch.zeros(2, 1, 6, 6), lambda x: (x * torch.arange(36.0).reshape(6, 6)).sum((1, 2, 3))

    def run(**options: Any) -> tuple[Tensor, Tensor]:
        recorder = Recorder(model)
        curves = pixel_flipping(recorder, x, x, orders=("random",), low=0, high=1, steps=4, **options)
        return recorder.seen[1], curves.of("random")

    (noise, curve), (again, same) = run(seed=1), run(seed=1)
    assert torch.equal(noise, again)
    assert torch.equal(curve, same)
    assert not torch.equal(noise[0], noise[1])
    other_noise, other_curve = run(seed=2)
    assert not torch.equal(noise, other_noise)
    assert not torch.equal(curve, other_curve)
    shifted_noise, shifted_curve = run(seed=1, first=1)
    assert torch.equal(shifted_noise[0], noise[1])
    assert torch.equal(shifted_curve[0], curve[1])


def test_draws_are_averaged() -> None:
    """Two draws give the mean of the curves that the recorded replacements give by loops."""
    model, x, rel = net(), images(), relevance()
    recorder = Recorder(model)
    curves = pixel_flipping(recorder, x, rel, orders=("highest",), steps=3, draws=2)
    first, second = recorder.seen[1], recorder.seen[4]  # f(x); per draw: the replacement, two steps
    assert len(recorder.seen) == 7
    assert not torch.equal(first, second)
    expected = (
        all_loops(model, x, first, rel, curves, "highest") + all_loops(model, x, second, rel, curves, "highest")
    ) / 2
    torch.testing.assert_close(curves.of("relevance"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("orders", "methods", "steps", "draws", "inner_and_ends"),
    [
        (("highest", "lowest", "random"), 2, 4, 1, 1 + 1 + 5 * 3),
        (("highest",), 3, 4, 1, 1 + 1 + 3 * 3),
        (("random",), 3, 4, 1, 1 + 1 + 3),
        (("highest", "lowest"), 1, range(0, 11, 5), 1, 1 + 2 * 2),  # the end is not reached: nothing to share there
        (("highest", "random"), 2, 4, 3, 1 + 3 * (1 + 3 * 3)),
    ],
)
def test_the_model_is_called_no_more_than_needed(
    orders: tuple[str, ...], methods: int, steps: Any, draws: int, inner_and_ends: int
) -> None:
    x, told = images(5), []
    recorder = Recorder(net())
    maps = {f"m{i}": relevance(5) for i in range(methods)}
    pixel_flipping(
        recorder, x, maps, orders=orders, steps=steps, draws=draws, batch_size=2, progress=lambda n: told.append(n)
    )
    assert recorder.samples == 5 * inner_and_ends
    assert sum(told) == recorder.samples
    assert sum(bool((y == x[:2]).all()) for y in recorder.seen if len(y) == 2) == 1  # f(x) once


def test_ties_go_in_raster_order_in_both_orders() -> None:
    model = lambda x: (x[:, 0] * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum((1, 2))  # noqa: E731
    x = torch.ones(1, 1, 2, 2)
    rel = torch.tensor([[[5.0, 7.0], [5.0, 5.0]]])
    curves = pixel_flipping(model, x, rel, replace=0, orders=("highest", "lowest"))
    assert curves.of("relevance", "highest").tolist() == [[1111, 1101, 1100, 1000, 0]]
    assert curves.of("relevance", "lowest").tolist() == [[1111, 1110, 1010, 10, 0]]


def test_constant_maps_are_counted_and_flipped_in_raster_order() -> None:
    x = torch.ones(3, 1, 2, 2)
    rel = torch.tensor([[[2.0, 2.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
    model = lambda x: (x[:, 0] * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum((1, 2))  # noqa: E731
    curves = pixel_flipping(model, x, {"flat": rel, "fine": torch.rand(3, 2, 2)}, replace=0)
    assert curves.constant["flat"].tolist() == [True, True, False]
    assert [note for note in curves.notes if "constant" in note] == [
        "flat: 2 of 3 maps are constant; their pixels went in raster order, which says nothing"
    ]
    raster = [1111.0, 1110.0, 1100.0, 1000.0, 0.0]
    assert curves.of("flat", "highest")[:2].tolist() == curves.of("flat", "lowest")[:2].tolist() == [raster, raster]


def test_a_constant_map_is_noticed_where_border_regions_are_smaller() -> None:
    x = torch.ones(1, 1, 3, 3)
    assert region_perturbation(lambda x: x.sum((1, 2, 3)), x, x, region=2).constant["relevance"].tolist() == [True]


def test_channels_are_added_up_and_all_accepted_shapes_agree() -> None:
    model, x, rel = net(), images(), relevance()
    summed = rel.sum(1)
    runs = [pixel_flipping(model, x, r, steps=20) for r in (rel, summed, summed[:, None], summed.numpy(), rel.numpy())]
    for curves in runs[1:]:
        assert all(torch.equal(curves.values[key], runs[0].values[key]) for key in runs[0].values)
    other_way = pixel_flipping(model, x, rel.abs().sum(1), steps=20)
    assert not torch.equal(other_way.of("relevance"), runs[0].of("relevance"))


def test_relevance_may_be_a_function_of_the_block_and_its_targets() -> None:
    model, x = net(), images(5)

    def gradient_times_input(block: Tensor, target: Tensor) -> Tensor:
        block.requires_grad_()
        score = model(block).gather(1, target[:, None]).sum()
        return block * torch.autograd.grad(score, block)[0]

    target = torch.tensor([0, 1, 2, 3, 0])
    held = gradient_times_input(x.clone(), target).detach()
    curves = pixel_flipping(
        model, x, {"held": held, "made": gradient_times_input}, target=target, batch_size=2, draws=2
    )
    for order in ("highest", "lowest"):
        assert torch.equal(curves.of("held", order), curves.of("made", order))


def test_images_without_channels() -> None:
    torch.manual_seed(0)
    weights = torch.randn(H, W).double()
    x, rel = images()[:, 0], relevance()[:, 0]
    flat = pixel_flipping(lambda x: (weights * x).sum((1, 2)), x, rel, low=0, high=1)
    with_channel = pixel_flipping(lambda x: (weights * x[:, 0]).sum((1, 2)), x[:, None], rel, low=0, high=1)
    for key in flat.values:
        torch.testing.assert_close(flat.values[key], with_channel.values[key], rtol=0, atol=1e-12)
    for replace in ("mean", "blur"):
        one = pixel_flipping(lambda x: (weights * x).sum((1, 2)), x, rel, replace=replace, orders=("highest",))
        two = pixel_flipping(
            lambda x: (weights * x[:, 0]).sum((1, 2)), x[:, None], rel, replace=replace, orders=("highest",)
        )
        torch.testing.assert_close(one.of("relevance"), two.of("relevance"), rtol=0, atol=1e-12)


def probability(z: Tensor, k: int) -> float:
    return math.exp(float(z[k])) / sum(math.exp(float(v)) for v in z)


SCORES: dict[str, tuple[Any, Callable[[Tensor, int], float]]] = {
    "logit": ("logit", lambda z, k: float(z[k])),
    "probability": ("probability", probability),
    "function": (lambda z: z[:, 0] - z[:, 3], lambda z, k: float(z[0]) - float(z[3])),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "target", [None, 2, [3, 1, 0], torch.tensor([3, 1, 0]), np.array([3, 1, 0], dtype=np.int32)], ids=str
)
def test_scores_and_targets(score: str, target: Any) -> None:
    model, x, rel = net(), images(), relevance()
    choice, by_hand = SCORES[score]
    curves = pixel_flipping(model, x, rel, score=choice, target=target, orders=("highest",), replace=0, steps=4)
    for i in range(3):
        k = (
            int(model(x[i : i + 1]).argmax())
            if target is None
            else target
            if isinstance(target, int)
            else int(target[i])
        )
        assert int(curves.target[i]) == k
        f = lambda y, k=k: by_hand(model(y[None]).detach()[0], k)  # noqa: E731
        expected = loops(f, x[i], torch.zeros_like(x[i]), rel[i], curves.counts.tolist(), True)
        assert curves.of("relevance")[i].tolist() == pytest.approx(expected, abs=1e-12)
        assert float(curves.score_at_0[i]) == pytest.approx(f(x[i]), abs=1e-12)


def test_a_score_may_be_made_of_any_output() -> None:
    model, x, rel = net(), images(), relevance()
    wrapped = pixel_flipping(lambda x: {"logits": model(x)}, x, rel, score=lambda out: out["logits"][:, 1])
    plain = pixel_flipping(model, x, rel, target=1)
    assert all(torch.equal(wrapped.values[key], plain.values[key]) for key in plain.values)
    assert wrapped.target.tolist() == [-1, -1, -1]


def test_arrays_for_a_function_and_for_a_module() -> None:
    model, x, rel = net(), images(), relevance()
    weights = np.linspace(-1, 1, C * H * W).reshape(C, H, W)

    def on_arrays(batch: np.ndarray) -> np.ndarray:
        assert isinstance(batch, np.ndarray)
        assert batch.dtype == np.float64
        return np.stack([(weights * batch).sum((1, 2, 3)), (batch**2).sum((1, 2, 3))], 1)

    def on_tensors(batch: Tensor) -> Tensor:
        assert isinstance(batch, Tensor)
        return torch.stack([(torch.tensor(weights) * batch).sum((1, 2, 3)), (batch**2).sum((1, 2, 3))], 1)

    arrays = pixel_flipping(on_arrays, x.numpy(), rel.numpy())
    tensors = pixel_flipping(on_tensors, x, rel)
    asked = pixel_flipping(on_tensors, x.numpy(), rel, device="cpu")
    module = pixel_flipping(model, x.float().numpy(), rel), pixel_flipping(model, x.float().double(), rel)
    for one, two in ((arrays, tensors), (asked, tensors), module):
        for key in one.values:
            torch.testing.assert_close(one.values[key], two.values[key], rtol=0, atol=1e-10)


def test_arrays_may_be_read_only_reversed_and_of_any_type() -> None:
    x = np.arange(2 * 3 * 4, dtype=">f4").reshape(2, 3, 4)[:, ::-1]
    x.flags.writeable = False
    curves = pixel_flipping(lambda x: x.sum((1, 2)), x, x.astype("f2"), replace=0, orders=("highest",), steps=2)
    assert curves.of("relevance").tolist() == [[66.0, 15.0, 0.0], [210.0, 87.0, 0.0]]


def test_images_of_integers_stay_integers() -> None:
    x = torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)
    recorder = Recorder(lambda x: x.double().sum((1, 2, 3)))
    pixel_flipping(
        recorder, x, torch.rand(1, 2, 2), replace=CONSTANT[:1, :2, :2].abs() + 0.6, orders=("highest",), steps=2
    )
    assert all(y.dtype == torch.uint8 for y in recorder.seen)
    assert recorder.seen[1].flatten().tolist() == [2, 2, 1, 1]  # 1.6, 1.57, 1.42…, rounded


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_relevance_of_any_float_type_is_added_up_exactly(dtype: torch.dtype) -> None:
    """In bfloat16, 256 + 1 is 256, and the two pixels would be tied."""
    x = torch.ones(1, 2, 1, 2)
    rel = torch.tensor([[[[256.0, 256.0]], [[0.0, 1.0]]]]).to(dtype)
    curves = pixel_flipping(lambda x: x[:, 0, 0, 0], x, rel, replace=0, orders=("highest",))
    assert curves.of("relevance").tolist() == [[1.0, 1.0, 0.0]]


def test_a_linear_model_falls_by_what_is_taken_from_it() -> None:
    """f = Σ w x; replaced by 0 in the order of w x, the curve is f minus the sum of the largest contributions."""
    generator = torch.Generator().manual_seed(4)
    x, w = torch.randn(6, 1, 8, 8, generator=generator).double(), torch.randn(8, 8, generator=generator).double()
    contributions = (w * x[:, 0]).reshape(6, 64)
    curves = pixel_flipping(lambda x: (w * x[:, 0]).sum((1, 2)), x, w * x[:, 0], replace="zero", steps=64)
    for order, sign in (("highest", True), ("lowest", False)):
        taken = contributions.sort(1, descending=sign).values.cumsum(1)
        expected = contributions.sum(1, keepdim=True) - torch.cat([torch.zeros(6, 1).double(), taken], 1)
        torch.testing.assert_close(curves.of("relevance", order), expected, rtol=0, atol=1e-12)
    assert bool((curves.srg("relevance") > 0).all())


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model, x, rel = net(), images(), relevance()
    before = torch.get_rng_state()
    with unchanged(model, x, rel):
        pixel_flipping(model, x, {"a": rel, "b": lambda x, t: x * 2}, draws=2, batch_size=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_may_overwrite_its_input() -> None:
    x, rel = images(), relevance()
    kept = x.clone()
    in_place = pixel_flipping(lambda x: x.relu_().sum((1, 2, 3)), x, rel)
    assert torch.equal(x, kept)
    plain = pixel_flipping(lambda x: x.relu().sum((1, 2, 3)), x, rel)
    assert all(torch.equal(in_place.values[key], plain.values[key]) for key in plain.values)


def test_a_progress_bar_is_drawn_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    pixel_flipping(net(), images(), relevance(), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "samples/s" in captured.err
    assert "100%" in captured.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_device_of_the_model() -> None:
    model, x, rel = net(), images(), relevance()
    on_cpu = pixel_flipping(model, x, rel, replace="blur", draws=2)
    on_gpu = pixel_flipping(model.cuda(), x, rel, replace="blur", draws=2)
    for key in on_cpu.values:
        assert on_gpu.values[key].device.type == "cpu"
        torch.testing.assert_close(on_gpu.values[key], on_cpu.values[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_ties_among_very_many_pixels_go_in_raster_order(order: str) -> None:
    """Sorting routines that are not stable often are for few values; here are 4096, of 3 kinds."""
    rel = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    recorder = Recorder(lambda x: x.sum((1, 2, 3)))
    counts = range(0, 4001, 500)
    pixel_flipping(recorder, torch.zeros(2, 1, 64, 64), rel, orders=(order,), replace=1, steps=counts)
    for image in range(2):
        values = rel[image].flatten().tolist()
        first = sorted(range(4096), key=lambda u: -values[u] if order == "highest" else values[u])
        for count, seen in zip(counts, recorder.seen, strict=True):
            assert set(seen[image].flatten().nonzero()[:, 0].tolist()) == set(first[:count])


def test_a_relevance_function_may_overwrite_its_block_and_is_called_once_a_block() -> None:
    model, x, rel = net(), images(5), relevance(5)
    calls = []

    def overwriting(block: Tensor, target: Tensor) -> Tensor:
        calls.append(len(block))
        found = block * 2
        block.zero_()
        return found

    kept = x.clone()
    curves = pixel_flipping(model, x, {"a": overwriting, "b": rel}, batch_size=2, draws=3)
    assert calls == [2, 2, 1]
    assert torch.equal(x, kept)
    plain = pixel_flipping(model, x, {"a": 2 * x, "b": rel}, batch_size=2, draws=3)
    assert all(torch.equal(curves.values[key], plain.values[key]) for key in plain.values)


def test_every_draw_has_another_random_order() -> None:
    recorder = Recorder(lambda x: x.sum((1, 2, 3)))
    pixel_flipping(
        recorder, torch.zeros(1, 1, 6, 6), torch.zeros(1, 6, 6), orders=("random",), replace=1, steps=2, draws=2
    )
    _, _, first, _, second = recorder.seen
    assert int(first.sum()) == int(second.sum()) == 18
    assert not torch.equal(first, second)


def test_the_random_order_does_not_follow_from_the_noise() -> None:
    from_noise = torch.randperm(50, generator=next(draws.generators("replacement", 0, 0, range(1))))
    assert not torch.equal(draws.orders(50, 0, 0, range(1))[0], from_noise)


def test_the_notes_say_how_it_was_done() -> None:
    x = images()
    curves = pixel_flipping(net(), x, relevance(), low=-1, seed=4, draws=2, score="probability", target=1)
    high = ", ".join(f"{float(x[:, c].max()):.4g}" for c in range(C))
    assert curves.notes == (
        "score: probability of the given class",
        f"replaced by random, uniform per channel from -1 to ({high}), bounds left out taken from the inputs given",
        "seed 4, 2 draws",
        "20 pixels a sample, equal relevance in raster order",
    )


def test_a_model_may_answer_from_the_same_memory_again() -> None:
    answer = torch.zeros(2, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return answer.copy_(x.double().sum((1, 2, 3)))

    x = torch.ones(2, 1, 2, 2)
    for score in ("logit", lambda output: output):
        curves = pixel_flipping(model, x, x, replace="zero", orders="highest", score=score)
        assert curves.of("relevance").tolist() == [[4.0, 3.0, 2.0, 1.0, 0.0]] * 2
