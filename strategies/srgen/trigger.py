"""SRGen's trigger (arXiv 2510.02919): where the model is more uncertain than it lately was.

The entropy H of the next token fires if, strictly,

    H > max(mean + K max(std, s_min), t_min)

over the last N entropies of the text, std unbiased; until there are N, if it is above a static threshold. H is added to
them afterwards, whether it fired or not. The first generated token is neither checked nor added. A text has at most so
many corrections; then it goes on unwatched.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.srgen.request import MAX_WINDOW, SRGenParams


def entropies_of(logits: Tensor, temperatures: Tensor) -> Tensor:
    """Entropies [R] in nats of logits [R, V] at temperatures [R], in single precision.

    H = log sum exp z - p . z: in every step for every row, so with as few passes over the vocabulary as there can be.
    """
    scaled = torch.div(logits, temperatures[:, None])
    p = torch.softmax(scaled, -1)
    log_sum = scaled.amax(-1) - p.amax(-1).log()
    return log_sum - p.mul_(scaled).sum(-1)


@dataclass(frozen=True, slots=True)
class Watched:
    """What the trigger made of R texts, each [R].

    Args:
        fires: whether its entropy is above its threshold.
        thresholds: in nats.
    """

    fires: Tensor
    thresholds: Tensor


class Trigger:
    """The entropies of many texts side by side. A text has a place from `take` to `leave`.

    Args:
        places: how many texts there are likely to be; more make it grow.
        device: where entropies come from.
    """

    def __init__(self, places: int, device: torch.device) -> None:
        self._entropies = torch.zeros(places, MAX_WINDOW, device=device)
        self._seen = torch.zeros(places, dtype=torch.long, device=device)
        self._window = torch.full((places,), 2, dtype=torch.long, device=device)
        self._settings = torch.zeros(places, 4, device=device)
        self._free = list(range(places))

    def take(self) -> int:
        """A place for a text."""
        if not self._free:
            # Requests that were preempted keep theirs, beyond the most that run at once.
            places = len(self._seen)
            self._free = list(range(places, 2 * places))
            self._entropies = self._entropies.repeat(2, 1)
            self._seen = self._seen.repeat(2)
            self._window = self._window.repeat(2)
            self._settings = self._settings.repeat(2, 1)
        return self._free.pop()

    def leave(self, place: int) -> None:
        """Its text has ended."""
        self._free.append(place)

    def enter(self, place: int, params: SRGenParams, entropies: Tensor) -> None:
        """A text begins, or goes on: `entropies` [n] are those of its earlier part, oldest first."""
        last = entropies[-params.window :]
        self._entropies[place, : len(last)] = last
        self._seen[place] = len(last)
        self._window[place] = params.window
        self._settings[place] = torch.tensor(
            [params.sensitivity, params.min_std, params.min_threshold, params.warmup_threshold]
        )

    def watch(self, places: Tensor, entropies: Tensor) -> Watched:
        """Compares the new entropies [R] of the texts at `places` [R], and adds them."""
        seen, window = self._seen[places], self._window[places]
        sensitivity, min_std, min_threshold, warmup = self._settings[places].unbind(1)
        known = torch.arange(MAX_WINDOW, device=places.device) < window[:, None]
        values = self._entropies[places]
        mean = torch.where(known, values, 0).sum(1) / window
        variance = torch.where(known, (values - mean[:, None]) ** 2, 0).sum(1) / (window - 1)
        dynamic = torch.maximum(mean + sensitivity * torch.maximum(variance.sqrt(), min_std), min_threshold)
        thresholds = torch.where(seen < window, warmup, dynamic)
        self._entropies[places, seen % window] = entropies
        self._seen[places] = seen + 1
        return Watched(entropies > thresholds, thresholds)
