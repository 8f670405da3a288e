"""Does the evidence for a rival turn negative? Two photos side by side, explained by z_c and by log-odds η_c.

    python scripts/draw_top_layer.py --data cifar10.tar.gz
    python scripts/draw_top_layer.py --data cifar10.tar.gz --weights resnet56.safetensors --depth 9 --figure top.png

Figure 10.5 of Montavon et al. 2019, counted. Photos of the CIFAR-10 test set that the network gets right are drawn in
pairs of two classes and put side by side: whole for a CIFAR ResNet, which takes any size (`--weights`), and squeezed to
half their width for the embedded network. A pair is kept if its two classes are the two largest outputs, so that both
have evidence. Each class of a pair is explained once, the other one being the rival, by its logit z_c and by `LogOdds`,
with the same rules. Prints a Markdown table, which docs/top_layer.md quotes: how often the rival's half sums to less
than zero. `--figure` draws the first pairs of look-alikes whose rival's half changes its sign.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import relprop
from networks import CifarResNet
from relprop import show
from relprop.reproduce.images import open_images
from relprop.targets import LogOdds
from relprop.zoo import cifar10, cifar10_lrn

CLASSES = cifar10.CLASSES
ALIKE = [frozenset(pair) for pair in (("cat", "dog"), ("automobile", "truck"), ("deer", "horse"))]
IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CIFAR = torch.tensor(cifar10.MEAN).view(3, 1, 1), torch.tensor(cifar10.STD).view(3, 1, 1)


class AnySize(CifarResNet):
    """The CIFAR ResNet with an average over all places, whatever the size of the photo."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(out))).mean((2, 3)))


@dataclass(frozen=True)
class Subject:
    """A network, its normalization, and how two photos are put side by side for it."""

    name: str
    model: nn.Module
    mean: Tensor
    std: Tensor
    whole: bool

    def normalized(self, photos: Tensor) -> Tensor:
        return (photos - self.mean) / self.std

    def side_by_side(self, left: Tensor, right: Tensor) -> Tensor:
        """Photos (N, 3, 32, 32) in pairs: (N, 3, 32, 64), or (N, 3, 32, 32) of two columns averaged into one."""
        both = torch.cat([left, right], 3)
        return both if self.whole else F.avg_pool2d(both, (1, 2))

    @property
    def box(self) -> dict[str, Tensor]:
        return {"low": self.normalized(torch.zeros(3, 1, 1)), "high": self.normalized(torch.ones(3, 1, 1))}


@dataclass(frozen=True)
class Pairs:
    """`photos` side by side, the classes `left` and `right`, and the network's outputs `z`."""

    photos: Tensor
    left: Tensor
    right: Tensor
    z: Tensor

    def __getitem__(self, which: Any) -> Pairs:
        return Pairs(self.photos[which], self.left[which], self.right[which], self.z[which])

    def __len__(self) -> int:
        return len(self.photos)


def outputs(subject: Subject, photos: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([subject.model(subject.normalized(part)) for part in photos.split(250)])


def read(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first photos of each class of the test split in [0, 1], and their classes."""
    batch = open_images(path).read(0, count)
    photos = [torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in batch.images]
    return torch.stack(photos), batch.labels


def alike(a: int, b: int) -> bool:
    """Whether two classes look alike, as those of figure 10.5 do."""
    return frozenset((CLASSES[a], CLASSES[b])) in ALIKE


def paired(subject: Subject, photos: Tensor, labels: Tensor, wanted: int, *, only_alike: bool) -> Pairs:
    """Pairs of photos that the network gets right, of two classes, or of two that look alike."""
    known = outputs(subject, photos).argmax(1) == labels
    photos, labels = photos[known], labels[known]
    draw = torch.randint(len(photos), (40 * wanted, 2), generator=torch.Generator().manual_seed(0))
    classes = labels[draw].tolist()
    fits = torch.tensor([alike(a, b) if only_alike else a != b for a, b in classes])
    a, b = draw[fits][:wanted].T
    both = subject.side_by_side(photos[a], photos[b])
    return Pairs(both, labels[a], labels[b], outputs(subject, both))


def both_on_top(pairs: Pairs) -> Pairs:
    """Those whose two classes are the two largest outputs."""
    top = pairs.z.topk(2).indices.sort(1).values
    return pairs[(top == torch.stack([pairs.left, pairs.right], 1).sort(1).values).all(1)]


def explained(subject: Subject, pairs: Pairs, recipe: str) -> tuple[Tensor, Tensor]:
    """Maps (4, N, H, W) of z_left, z_right, η_left, η_right, summed over channels, and their scores (4, N)."""
    explainer = relprop.Explainer(subject.model, subject.normalized(pairs.photos[:2]), recipe, **subject.box)
    maps, scores = [], []
    for i in range(0, len(pairs), 50):
        some = pairs[slice(i, i + 50)]
        targets = [some.left, some.right, LogOdds(some.left), LogOdds(some.right)]
        e = explainer(subject.normalized(some.photos), targets)
        maps.append(e.relevance.sum(2))
        scores.append(e.score)
    return torch.cat(maps, 1), torch.cat(scores, 1)


def halves(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the rival's half and over the own half, (2, 2N): by z and by η; left classes, then right ones."""
    left, right = (half.sum((2, 3)) for half in maps.chunk(2, 3))
    rival = torch.stack([torch.cat([right[0], left[1]]), torch.cat([right[2], left[3]])])
    own = torch.stack([torch.cat([left[0], right[1]]), torch.cat([left[2], right[3]])])
    return rival, own


def share(chosen: Tensor) -> str:
    """Of both explanations of the pairs, (2N,): the share and its standard error over pairs."""
    each = chosen.double().reshape(2, -1).mean(0)
    return f"{each.mean():.1%} ± {each.std() / len(each) ** 0.5:.1%}"


def row(subject: Subject, group: str, recipe: str, rival: Tensor, own: Tensor) -> str:
    """One line of the table: explanations, negative rival's halves by z and η, changed signs, positive own halves."""
    z, odds = rival
    turned = [share((z > 0) & (odds < 0)), share((z < 0) & (odds > 0))]
    cells = [subject.name, group, recipe, str(len(z)), share(z < 0), share(odds < 0), *turned, share(own[1] > 0)]
    ratio = [f"{(r / o.abs()).median():.2f}" for r, o in zip(rival, own, strict=True)]
    return f"| {' | '.join([*cells, *ratio])} |"


def shown(pairs: Pairs, rival: Tensor, count: int) -> list[int]:
    """The first explanations whose rival's half changes its sign, one of each two classes, each class with P > 10 %."""
    found: dict[frozenset[int], int] = {}
    n, P = len(pairs), pairs.z.softmax(1)
    for k in ((rival[0] > 0) & (rival[1] < 0)).nonzero().flatten().tolist():
        a, b = int(pairs.left[k % n]), int(pairs.right[k % n])
        if min(P[k % n, a], P[k % n, b]) > 0.1:
            found.setdefault(frozenset((a, b)), k)
    return list(found.values())[:count]


def drawn(subject: Subject, pairs: Pairs, maps: Tensor, scores: Tensor, count: int = 3) -> Figure:
    """Photo, map of z_c and map of η_c, each map on its own scale; the sums of both halves stand under them."""
    rival, own = halves(maps)
    chosen, n = shown(pairs, rival, count), len(pairs)
    figure = Figure(figsize=(6.3 if subject.whole else 4.6, 1.6 * len(chosen)), layout="constrained")
    for line, k in zip(figure.subplots(len(chosen), 3, squeeze=False), chosen, strict=True):
        i, side = k % n, k // n
        a, b = (int(c[i]) for c in ((pairs.left, pairs.right) if side == 0 else (pairs.right, pairs.left)))
        p = pairs.z[i].softmax(0)
        line[0].imshow(pairs.photos[i].permute(1, 2, 0).numpy(), interpolation="nearest")
        line[0].set_xlabel(f"{CLASSES[a]} {p[a]:.0%}, {CLASSES[b]} {p[b]:.0%}", fontsize=7)
        for j, symbol in enumerate(("z", r"\eta")):
            line[1 + j].imshow(show.heatmap(maps[2 * j + side, i].numpy()), interpolation="nearest")
            sums = f"{CLASSES[a]} half {own[j, k]:+.2f}, {CLASSES[b]} half {rival[j, k]:+.2f}"
            score = f"${symbol}_\\mathrm{{{CLASSES[a]}}} = {float(scores[2 * j + side, i]):.2f}$"
            line[1 + j].set_xlabel(f"{score}\n{sums}", fontsize=7)
        for axes in line:
            axes.set(xticks=[], yticks=[])
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="of a CIFAR ResNet; without, the embedded network")
    parser.add_argument("--depth", type=int, default=9, help="n of the 6n + 2 layers: 3 is ResNet-20, 9 ResNet-56")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--recipes", nargs="+", default=["auto", "montavon2019"])
    parser.add_argument("--figure", type=Path, help="of the first recipe, into this file")
    args = parser.parse_args()
    if args.weights is None:
        subject = Subject("embedded", cifar10_lrn(), *CIFAR, whole=False)
    else:
        subject = Subject(f"ResNet-{6 * args.depth + 2}", AnySize(args.depth), *IMAGENET, whole=True)
        subject.model.load_state_dict(load_file(args.weights))
    subject.model.eval()
    photos, labels = read(args.data, args.images)
    heads = ("network", "pairs", "recipe", "explained", "z: negative", "η: negative", "+ to −", "− to +",
             "η: own half positive", "z: rival / own", "η: rival / own")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for group, only_alike in (("any two classes", False), ("look alike", True)):
        tried = paired(subject, photos, labels, args.pairs, only_alike=only_alike)
        pairs = both_on_top(tried)
        for recipe in args.recipes:
            maps, scores = explained(subject, pairs, recipe)
            print(row(subject, f"{group}, {len(pairs)} of {len(tried)}", recipe, *halves(maps)), flush=True)
            if args.figure is not None and only_alike and recipe == args.recipes[0]:
                drawn(subject, pairs, maps, scores).savefig(args.figure, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
