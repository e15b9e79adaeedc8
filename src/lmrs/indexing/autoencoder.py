"""Semantic ids from an autoencoder whose middle is a path through codebooks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from lmrs.errors import ContractError
from lmrs.indexing.index import Index
from lmrs.indexing.quantised import checked, kmeans, told_apart
from lmrs.language.tokens import Tokens
from lmrs.seeding import mix, numpy_generator
from lmrs.split import Train


@dataclass(frozen=True)
class LearnedQuantised:
    """Residual quantisation inside an autoencoder (RQ-VAE; Zeghidour et al. 2021), TIGER's own semantic ids (Rajput et al. 2023).

    z = encoder(x);  r_0 = z;  c_d = argmin_j |r_d - e_dj|;  r_{d+1} = r_d - e_{d, c_d};  y = decoder(sum_d e_{d, c_d})

    loss = |x - y|^2 + sum_d |sg(r_d) - e_{d, c_d}|^2 + commitment |r_d - sg(e_{d, c_d})|^2, the mean over a batch

    sg stops the gradient, which passes the quantiser straight through. Codebooks start from the k-means of the first batch's
    residuals. Items with training events are learnt from; new ones are put through what those made. The last token tells items
    of one path apart, as in Quantised.

    levels, codes: as in Quantised. dim: width of z. hidden: widths of the encoder's inner layers (ReLU); the decoder mirrors it.
    commitment: weight >= 0. steps, batch_size, lr: AdamW steps. (TIGER trains 20,000 epochs with Adagrad.)
    """

    levels: int = 3
    codes: int = 256
    dim: int = 32
    hidden: tuple[int, ...] = (512, 256, 128)
    commitment: float = 0.25
    steps: int = 1000
    batch_size: int = 1024
    lr: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("levels", "codes", "dim", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ContractError(needed=f"{name} of at least 1", came=f"{name}={getattr(self, name)}")
        if self.commitment < 0 or not self.lr > 0 or min(self.hidden, default=1) < 1:
            raise ContractError(
                needed="commitment >= 0, lr > 0, hidden widths of at least 1",
                came=f"commitment={self.commitment}, lr={self.lr}, hidden={self.hidden}",
            )

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        x, trained = checked(train, vectors)
        network = learned(self, torch.from_numpy(x[trained]), seed=seed)
        with torch.no_grad():
            paths = network.quantise(network.encoder(torch.from_numpy(x)))[0]
        return told_apart(self, train, paths.numpy(), self.codes, tokens)


class QuantisingAutoencoder(nn.Module):
    """encoder and decoder: [n, E] to [n, D] and back. books: [levels, codes, D]."""

    def __init__(self, about: LearnedQuantised, width: int) -> None:
        super().__init__()
        sizes = [width, *about.hidden, about.dim]
        self.commitment = about.commitment
        self.encoder, self.decoder = _layers(sizes), _layers(sizes[::-1])
        self.books = nn.Parameter(torch.zeros(about.levels, about.codes, about.dim))

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(paths int64[n, levels], sum of the chosen codes [n, D], the two distances of the loss [n])."""
        left, total = z, torch.zeros_like(z)
        loss = z.new_zeros(len(z))
        paths = []
        for book in self.books:
            near = (book.square().sum(dim=1) / 2 - left.detach() @ book.detach().T).argmin(dim=1)
            code = book[near]
            loss = loss + (left.detach() - code).square().sum(dim=1)
            loss = loss + self.commitment * (left - code.detach()).square().sum(dim=1)
            left, total = left - code.detach(), total + code
            paths.append(near)
        return torch.stack(paths, dim=1), total, loss

    def loss(self, x: Tensor) -> Tensor:
        """The loss of one batch, [n, E]."""
        z = self.encoder(x)
        _, total, loss = self.quantise(z)
        y = self.decoder(z + (total - z).detach())
        return ((x - y).square().sum(dim=1) + loss).mean()


def learned(about: LearnedQuantised, x: Tensor, *, seed: int) -> QuantisingAutoencoder:
    """The autoencoder trained on float32[n, E]; a function of its arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, "indexing", "autoencoder"))
        network = QuantisingAutoencoder(about, x.shape[1])
    rng = numpy_generator(seed, "indexing", "autoencoder")
    optimiser = torch.optim.AdamW(network.parameters(), lr=about.lr)
    queue = np.zeros(0, np.int64)
    for step in range(about.steps):
        if len(queue) < min(about.batch_size, len(x)):
            queue = np.concatenate([queue, rng.permutation(len(x))])
        batch, queue = x[torch.from_numpy(queue[: about.batch_size])], queue[about.batch_size :]
        if step == 0:
            _start(network, batch, rng)
        optimiser.zero_grad()
        network.loss(batch).backward()
        optimiser.step()
    return network


@torch.no_grad()
def _start(network: QuantisingAutoencoder, batch: Tensor, rng: np.random.Generator) -> None:
    """Codebooks from the k-means of residuals; where there are fewer points than codes, the other codes stand at drawn points."""
    left = network.encoder(batch)
    for book in network.books:
        centres = torch.from_numpy(kmeans(left.numpy(), len(book), rounds=10, rng=rng))
        book[: len(centres)] = centres
        book[len(centres) :] = left[torch.from_numpy(rng.integers(len(left), size=len(book) - len(centres)))]
        left = left - book[torch.cdist(left, book).argmin(dim=1)]


def _layers(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
