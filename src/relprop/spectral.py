"""Relevance of frequencies: what of a signal's relevance its oscillations carry (DFT-LRP, Vielhaben et al. 2024).

The inverse discrete Fourier transform x_n = 1/N Σ_k Y_k exp(2πi kn/N) is a linear layer from frequencies to steps;
LRP-0 through it hands the relevance of the steps to the frequencies.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .values import finite

Sides = Literal["one", "two"]


def dft_relevance(x: Tensor, R: Tensor, *, dim: int = -1, sided: Sides = "one") -> Tensor:
    """R_k = Re(Y_k · conj(Q_k)) / N with Y = FFT(x) and Q = FFT(R / x): Σ_k R_k = Σ_n R_n.

    `x`: a real signal; `R`: its relevance, of the same shape; both in time along `dim`, of N steps. `sided`: "one"
    gives the N // 2 + 1 frequencies 0 … N/2 of `torch.fft.rfftfreq`, a frequency together with its negative; "two"
    gives all N, in the order of `torch.fft.fftfreq`. The rest of the shape and the dtype stay.

    0 / 0 = 0. Relevance at a step where x is 0 is in no oscillation of x, and is refused rather than lost: rules of the
    form a ⊙ c (LRP-0, ε, γ, z⁺, recurrent layers) give none there, but w², ♭ and zᴮ do; explain with one of the former,
    or leave the offset in the signal. Raises `InputError` for that, for other shapes, integers, complex numbers, NaN
    and infinity, and where R / x leaves the range of numbers.

    Source: Vielhaben et al. 2024, Explainable AI for time series via virtual inspection layers.

    >>> n = torch.arange(8, dtype=torch.float64)
    >>> x = 3 + torch.cos(2 * torch.pi * 2 * n / 8)                  # an offset, and two periods
    >>> R = x * x                                                    # of the signal's energy Σ x²
    >>> [round(r, 9) + 0.0 for r in dft_relevance(x, R).tolist()], round(float(R.sum()), 9)
    ([72.0, 0.0, 4.0, 0.0, 0.0], 76.0)
    """
    check_sided(sided)
    check_signal(x, R)
    check_dim(dim, x)
    x, R = (t.movedim(dim, -1) for t in (x, R))
    both = folded(spectrum(x, ratio(x, R)), sided)
    return both.movedim(-1, dim)


def stft_relevance(
    x: Tensor, R: Tensor, *, window: int | Tensor, hop: int | None = None, dim: int = -1, sided: Sides = "one"
) -> Tensor:
    """Relevance of frequencies in short windows, R_τk = Re(Z_τk · conj(Q_τk)) / M, with Σ_τk R_τk = Σ_n R_n.

    Z_τ is the FFT of the signal under the window at τ, M its length. The signal is the sum of the inverse transforms of
    all windows, divided by W_n = Σ_τ w_{n−τ}; with LRP-0 through that sum Q_τ = FFT(R / (x W)) over the window's steps.

    `window`: a length, for a Hann window, or the window itself, (M,), >= 0. `hop`: steps from one window to the next,
    by default M // 2. The signal is continued by 0 on both sides, so that each step lies under equally many windows.
    `x`, `R`, `dim`, `sided`: as for `dft_relevance`. In place of the time dimension come two, windows and frequencies;
    window τ begins at step τ · hop − (M − hop).

    Raises `InputError` as `dft_relevance` does, for a signal shorter than the window, and for windows between which
    steps are left out.

    >>> x = torch.rand(2, 20, dtype=torch.float64) + 1
    >>> R = stft_relevance(x, x * x, window=8, hop=4)
    >>> R.shape, bool(torch.allclose(R.sum((1, 2)), (x * x).sum(1)))
    (torch.Size([2, 6, 5]), True)
    """
    check_sided(sided)
    check_signal(x, R)
    check_dim(dim, x)
    x, R = (t.movedim(dim, -1) for t in (x, R))
    w = _weights(window, x)
    M, N = len(w), x.shape[-1]
    hop = M // 2 if hop is None else hop
    if M > N:
        raise InputError(f"the signal has {N} steps, the window {M}: take a window of at most {N}, or a longer signal")
    if not isinstance(hop, Integral) or isinstance(hop, bool) or not 1 <= hop <= M:
        raise InputError(f"hop={hop!r}: windows of {M} steps follow each other after a whole number of steps, 1 to {M}")
    hop = int(hop)
    before = M - hop
    count = -(-(before + N) // hop)  # windows that begin before the signal's end
    behind = (count - 1) * hop + M - before - N
    covered = torch.zeros(before + N + behind, dtype=x.dtype, device=x.device)
    for i in range(count):
        covered[i * hop : i * hop + M] += w
    covered = covered[before : before + N]
    if not bool((covered > 1e-6 * w.max()).all()):
        raise InputError(
            f"with hop={hop} the windows of {M} steps leave steps of the signal out; take a smaller hop, such as "
            f"{max(1, M // 2)}"
        )
    frames, shares = (F.pad(t, (before, behind)).unfold(-1, M, hop) for t in (x, ratio(x, R) / covered))
    return folded(spectrum(frames * w, shares), sided).movedim((-2, -1), _places(dim, x.dim()))


def spectrum(x: Tensor, q: Tensor) -> Tensor:
    """Re(FFT(x) · conj(FFT(q))) / N of all N frequencies, along the last dimension."""
    R: Tensor = (torch.fft.fft(x) * torch.fft.fft(q).conj()).real / x.shape[-1]
    return R


def folded(R: Tensor, sided: Sides) -> Tensor:
    """All frequencies, or each of the first half with its negative added."""
    if sided == "two":
        return R
    N = R.shape[-1]
    out = R[..., : N // 2 + 1].clone()
    out[..., 1 : (N + 1) // 2] += R[..., N // 2 + 1 :].flip(-1)
    return out


def ratio(x: Tensor, R: Tensor) -> Tensor:
    """R / x with 0 / 0 = 0, refusing R / 0."""
    lost = (x == 0) & (R != 0)
    if bool(lost.any()):
        where = tuple(lost.nonzero()[0].tolist())
        raise InputError(
            f"at {int(lost.sum())} of {x.numel()} steps, first {where}, the signal is 0 but has relevance "
            f"({float(R[lost].sum()):.4g} in sum), which no oscillation of the signal can carry; explain with rules "
            "that give inputs of 0 none (zero, epsilon, gamma, z_plus, not w_square, flat, z_box)"
        )
    q = torch.where(x == 0, 0.0, R / torch.where(x == 0, 1.0, x))
    if not finite(q):
        raise InputError("R / x is infinite where the signal is nearly 0; give float64, or scale the signal")
    return q


def check_signal(x: Tensor, R: Tensor) -> None:
    """Refuse what is no signal with its relevance."""
    if not (isinstance(x, Tensor) and isinstance(R, Tensor)):
        raise InputError("x and R are tensors: the signal as the model saw it, and e.relevance")
    if x.shape != R.shape or x.dim() == 0 or x.numel() == 0:
        raise InputError(f"the signal is {tuple(x.shape)}, its relevance {tuple(R.shape)}; give two of one shape")
    for name, t in (("x", x), ("R", R)):
        if t.dtype not in (torch.float32, torch.float64):
            raise InputError(f"{name} is {t.dtype}; give float32 or float64")
        if not finite(t):
            raise InputError(f"{name} holds NaN or infinity")


def check_sided(sided: str) -> None:
    """Refuse another word."""
    if sided not in ("one", "two"):
        raise InputError(f"sided={sided!r}: give 'one' (frequencies 0 … N/2) or 'two' (all N)")


def check_dim(dim: Any, x: Tensor) -> None:
    """Refuse a dimension that the signal does not have."""
    if not isinstance(dim, Integral) or isinstance(dim, bool) or not -x.dim() <= int(dim) < x.dim():
        raise InputError(
            f"dim={dim!r}: the signal, {tuple(x.shape)}, has time along one of its dimensions, {-x.dim()} to "
            f"{x.dim() - 1}"
        )


def _weights(window: Any, x: Tensor) -> Tensor:
    """The window's weights, (M,): Hann's for a length."""
    if isinstance(window, Integral) and not isinstance(window, bool):
        if window < 2:
            raise InputError(f"window={window}: a window has at least 2 steps")
        return torch.hann_window(int(window), dtype=x.dtype, device=x.device)
    if not isinstance(window, Tensor) or window.is_complex():
        kind = f"a tensor of {window.dtype}" if isinstance(window, Tensor) else f"a {type(window).__name__}"
        raise InputError(f"window is {kind}; give a whole number of steps, or weights as a real tensor (M,)")
    w = window.to(x)
    if w.dim() != 1 or not bool(((w >= 0) & w.isfinite()).all()) or not bool(w.any()):
        raise InputError(f"window is {tuple(w.shape)}; give a length, or weights (M,) that are >= 0 and not all 0")
    return w


def _places(dim: int, dims: int) -> tuple[int, int]:
    """Where the two dimensions go that replace dimension `dim` of `dims`."""
    first = dim % dims
    return first, first + 1
