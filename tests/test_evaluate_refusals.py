"""What cannot be evaluated is refused before the work starts, with the argument, what is wrong, and what to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relprop.errors import InputError, NonFiniteError, TargetError
from relprop.evaluate import feature_deletion, pixel_flipping, region_perturbation, token_deletion

X = torch.rand(3, 2, 4, 5)
REL = torch.rand(3, 4, 5)
TEXTS = torch.randint(0, 9, (3, 6))
TABLE = torch.rand(3, 4)


def never(x: Tensor) -> Tensor:
    raise AssertionError("the model was called")


def scores(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)[:, :4].double()


def flip(inputs: Any = X, relevance: Any = REL, model: Any = never, **options: Any) -> Any:
    return lambda: pixel_flipping(model, inputs, relevance, **options)


def text(tokens: Any = TEXTS, relevance: Any = None, **options: Any) -> Any:
    given = torch.rand(3, 6) if relevance is None else relevance
    return lambda: token_deletion(never, tokens, given, **({"mask_token": 1} | options))


def row(table: Any = TABLE, relevance: Any = TABLE, **options: Any) -> Any:
    return lambda: feature_deletion(never, table, relevance, **options)


def with_nan(values: Tensor, sample: int) -> Tensor:
    changed = values.clone()
    changed[sample].view(-1)[1] = torch.nan
    return changed


BEFORE: dict[str, tuple[Callable[[], Any], str]] = {
    "zero images": (flip(X[:0], REL[:0]), "zero images"),
    "no pixels": (flip(X[..., :0], REL[..., :0]), "images without pixels"),
    "a vector": (flip(X[0, 0, 0]), r"inputs has shape \(5,\); give images"),
    "a list": (flip([[1.0]]), "inputs is a list; give a torch tensor or a NumPy array"),
    "texts as array": (flip(np.array([["a"]])), "inputs is an array of <U1; give real numbers"),
    "complex": (flip(X.to(torch.complex64)), "inputs is a tensor of torch.complex64"),
    "not a model": (flip(model=3), "model is a int; give a module or a function"),
    "training": (flip(model=nn.Sequential(nn.Flatten(), nn.Dropout())), r"call model.eval\(\)"),
    "a part in training": (flip(model=nn.Sequential(nn.Flatten(), nn.Dropout()).eval().append(nn.Dropout())), r"model.eval\(\)"),
    "relevance too small": (flip(relevance={"mine": REL[:, :3]}), r"relevance 'mine' has shape \(3, 3, 5\); .* \(3, 2, 4, 5\) or \(3, 1, 4, 5\) or \(3, 4, 5\)"),
    "relevance of other channels": (flip(relevance=torch.rand(3, 3, 4, 5)), r"\(3, 3, 4, 5\)"),
    "relevance of fewer images": (flip(relevance=REL[:2]), r"\(2, 4, 5\)"),
    "relevance of one image": (flip(relevance=REL[0]), r"\(4, 5\)"),
    "relevance NaN": (flip(relevance=with_nan(REL, 2)), "relevance 'relevance' of sample 2 holds NaN or infinity"),
    "relevance infinite": (flip(relevance=REL / 0), "of sample 0 holds NaN or infinity"),
    "relevance a list": (flip(relevance=[1, 2]), "relevance 'relevance' is a list"),
    "relevance empty": (flip(relevance={}), "relevance is empty"),
    "relevance called random": (flip(relevance={"random": REL}), "named 'random'"),
    "relevance numbered": (flip(relevance={0: REL}), r"keys \[0\]; give method names as text"),
    "relevance of texts": (flip(relevance=np.full((3, 4, 5), "a")), "give real numbers"),
    "score": (flip(score="softmax"), "score is 'softmax'; give 'logit', 'probability' or a function"),
    "order": (flip(orders=("highest", "middle")), "orders is .*middle.*; give some of 'highest', 'lowest', 'random'"),
    "order twice": (flip(orders=("highest", "highest")), "each once"),
    "no order": (flip(orders=()), "orders is"),
    "no steps": (flip(steps=0), "steps is 0"),
    "steps is a number": (flip(steps=0.5), "steps is 0.5; give a number of steps, or counts"),
    "steps is true": (flip(steps=True), "steps is True"),
    "steps of fractions": (flip(steps=[0.5, 1.0]), "give a number of steps, or counts"),
    "steps decrease": (flip(steps=[0, 5, 4]), r"steps is \[0, 5, 4\]; give increasing counts"),
    "steps repeat": (flip(steps=[0, 5, 5]), "increasing"),
    "steps negative": (flip(steps=[-1, 5]), "increasing"),
    "steps empty": (flip(steps=[]), "increasing"),
    "steps of nothing": (flip(steps=[0]), "the last above 0"),
    "steps too far": (flip(steps=range(0, 30, 7)), "steps ends at 28 replaced units, but a sample has 20; end at 20"),
    "draws": (flip(draws=0), "draws is 0; give an integer >= 1"),
    "batch size": (flip(batch_size=0), "batch_size is 0"),
    "batch size a float": (flip(batch_size=2.0), "batch_size is 2.0"),
    "first": (flip(first=-1), "first is -1; give an integer >= 0"),
    "seed": (flip(seed=None), "seed is None; give an integer$"),
    "region": (flip(region=0), "region is 0"),
    "region too large": (lambda: region_perturbation(never, X, REL, region=6), "region is 6, but the images have 4 × 5 pixels"),
    "replace": (flip(replace="median"), "replace is 'median'; give 'random', 'mean', 'zero', 'blur', a number"),
    "replace nothing": (flip(replace=None), "replace is a NoneType"),
    "replace NaN": (flip(replace=float("nan")), "replace is nan; give a finite number"),
    "replace of another shape": (flip(replace=torch.rand(3, 4, 5)), r"replace has shape \(3, 4, 5\); give one that broadcasts to \(2, 4, 5\) or \(3, 2, 4, 5\)"),
    "replace of fewer images": (flip(replace=torch.rand(2, 2, 4, 5)), r"replace has shape \(2, 2, 4, 5\)"),
    "low without random": (flip(replace="zero", low=0), "low and high bound random replacement"),
    "low above high": (flip(low=1, high=0), r"low \[1.0, 1.0\] is above high \[0.0, 0.0\]"),
    "low of other channels": (flip(low=[0, 0, 0]), "low is .*; give a finite number, or one for each of the 2 channels"),
    "low infinite": (flip(low=-torch.inf), "finite"),
    "low a word": (flip(low="dark"), "low is 'dark'"),
    "zero texts": (text(TEXTS[:0]), "tokens holds zero texts"),
    "tokens of floats": (text(TEXTS.float()), "tokens is torch.float32; give the numbers of the tokens, integers"),
    "tokens of one text": (text(TEXTS[0]), r"tokens has shape \(6,\)"),
    "embedded tokens": (text(relevance=torch.rand(3, 6, 8)), r"\(3, 6, 8\); the inputs ask for \(3, 6\)"),
    "no mask": (text(mask_token=None), "give mask_token"),
    "mask and delete": (text(delete=True, pad_token=0), "no mask_token"),
    "delete without padding": (text(mask_token=None, delete=True), "give pad_token"),
    "padding without delete": (text(pad_token=0), "or delete=True and pad_token"),
    "mask of a word": (text(mask_token="[MASK]"), "mask_token is '.MASK.'; give the number of a token"),
    "keep of integers": (text(keep=TEXTS), r"keep is torch.int64 of shape \(3, 6\); give booleans"),
    "keep of another shape": (text(keep=TEXTS[0] > 2), r"keep is torch.bool of shape \(6,\)"),
    "all kept": (text(keep=torch.arange(3)[:, None].expand(3, 6) == 1), "keep leaves no token of text 1 to be replaced"),
    "zero rows": (row(TABLE[:0]), "table holds zero rows"),
    "no table": (row(TABLE[0]), r"table has shape \(4,\); give one row a sample"),
    "features of relevance": (row(relevance=TABLE[:, :2]), r"\(3, 2\); the inputs ask for \(3, 4\)"),
    "replace in a table": (row(replace="blur"), "replace is 'blur'; give 'mean', 'zero', 'random'"),
    "reference of other columns": (row(reference=TABLE[:, :2]), "reference has 2 columns, table 4"),
    "empty reference": (row(reference=TABLE[:0]), "reference holds zero rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_refused_before_the_model_is_called(name: str) -> None:
    use, message = BEFORE[name]
    with pytest.raises(InputError, match=message):
        use()


TARGETS: dict[str, tuple[Callable[[], Any], str]] = {
    "another number": (flip(target=[1, 2]), r"target is torch.int64 of shape \(2,\); give integer classes, one a sample: \(3,\)"),
    "floats": (flip(target=torch.rand(3)), "target is torch.float32"),
    "booleans": (flip(target=torch.ones(3).bool()), "target is torch.bool"),
    "a word": (flip(target="cat"), "target is 'cat'"),
    "too large": (flip(model=scores, target=4), "a class outside 0 … 3: the model has 4 outputs"),
    "negative": (flip(model=scores, target=[0, -1, 0]), "a class outside 0 … 3"),
    "without classes": (flip(model=lambda x: x.sum((1, 2, 3)), target=0), "leave target out"),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_targets_that_name_no_output(name: str) -> None:
    use, message = TARGETS[name]
    with pytest.raises(TargetError, match=message):
        use()


OUTPUTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a dictionary": (flip(model=lambda x: {"logits": x}), "the model returns a dict; wrap it"),
    "maps": (flip(model=lambda x: x), r"the model returns shape \(3, 2, 4, 5\) for 3 samples"),
    "one number": (flip(model=lambda x: x.sum()), r"the model returns shape \(\) for 3 samples"),
    "one score for all": (flip(model=lambda x: scores(x)[:1]), r"shape \(1, 4\) for 3 samples"),
    "probability of a score": (flip(model=lambda x: x.sum((1, 2, 3)), score="probability"), "the model has one output"),
    "probability of one class": (flip(model=lambda x: scores(x)[:, :1], score="probability"), "the model has one output"),
    "score of another shape": (flip(model=scores, score=lambda z: z), r"the score function returns shape \(3, 4\) for 3 samples; it must return \(3,\)"),
    "score of no tensor": (flip(model=scores, score=lambda z: 1.0), "the score function returns no tensor"),
    "relevance function's shape": (flip(model=scores, relevance={"f": lambda x, t: x[:, :, :2]}), r"relevance 'f' has shape \(3, 2, 2, 5\)"),
    "relevance function's NaN": (flip(model=scores, relevance={"f": lambda x, t: x / 0 * 0}), "relevance 'f' of sample 0 holds NaN"),
    "relevance function's nothing": (flip(model=scores, relevance={"f": lambda x, t: None}), "relevance 'f' is a function that returns no tensor"),
    "replacement's shape": (flip(model=scores, replace=lambda x: x[:, :1]), r"replace is a function that returns shape \(3, 1, 4, 5\)"),
    "replacement's nothing": (flip(model=scores, replace=lambda x: None), "replace is a function that returns no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_cannot_be_used(name: str) -> None:
    use, message = OUTPUTS[name]
    with pytest.raises(InputError, match=message):
        use()


def test_a_score_that_is_not_finite_is_named_by_sample_and_count() -> None:
    x = torch.stack([torch.full((1, 2, 2), value) for value in (3.0, 2.0)])
    options: dict[str, Any] = {"replace": 0, "steps": [1, 2], "orders": ("highest",)}
    message = r"sample 1 is -inf with 2 pixels replaced \(method 'relevance', order 'highest'\)"
    with pytest.raises(NonFiniteError, match=message):  # 2 + 2 are left of sample 1
        pixel_flipping(lambda x: (x.sum((1, 2, 3)) - 4).log(), x, x, **options)
    with pytest.raises(NonFiniteError, match="sample 0 is nan with 0 pixels replaced"):
        pixel_flipping(lambda x: (x.sum((1, 2, 3)) - 20).log(), x, x, **options)
