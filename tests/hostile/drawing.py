"""Draws the sizes and tensors of a call, which its seed and its number determine."""

import random

import torch

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Sizes that no machine holds, of tensors that are one element: some products of them are beyond 63 bits.
ENDLESS = (2**40, 2**62)
LARGE = (2**31 - 1, 2**31)
ABSURD = 1000  # tensors of such sizes are expanded


class Draw:
    """The random numbers of one call, and its sizes by letter (see docs/design.md): B, L, D, N, K, G, H and W.

    One of the sizes may be absurd: zero, or so large that tensors are expanded from a single element.

    Attributes:
        size: the size of each letter.
        dtype: the floating-point type of the call's inputs.
        large: whether sizes of 2^31 are drawn.
        comparable: whether the result's values may be compared. Mutations that break this set it to False.
    """

    def __init__(self, seed: int, number: int, device: str, large: bool = True):
        self.random = random.Random(f"{seed}:{number}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(60))
        self.device = device
        self.large = large
        self.dtype = self.random.choices(FLOATS, weights=(6, 2, 1, 1))[0]
        self.wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.comparable = True
        pick = self.random.choice
        self.size = {
            "B": pick((1, 1, 2, 3)),
            "L": pick((1, 2, 3, 7, 8, 9, 17, 33, 70, 70)),
            "D": pick((1, 2, 3, 4, 8, 16, 33, 40)),
            "N": pick((1, 1, 1, 2, 3, 4, 5, 16)),
            "G": pick((1, 1, 2, 3)),
            "H": pick((1, 2, 3, 4, 7)),
            "W": pick((1, 2, 3, 5, 8)),
        }
        if self.chance(0.03):
            self.size["L"] = pick((196, 600, 700))  # some kernels cut long sequences and trees
        self.size["K"] = self.size["G"] * pick((1, 2, 4))
        self.odd = pick("BLDNGKHW") if self.chance(0.15) else ""
        if self.odd:
            self.size[self.odd] = pick((0, 0, ABSURD, *ENDLESS, *(LARGE if large else ())))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability

    def shape(self, letters: str) -> tuple[int, ...]:
        """The sizes of a tensor's dimensions. ``T`` stands for the tokens of a map, H·W."""
        size = self.size | {"T": self.size["H"] * self.size["W"]}
        return tuple(size[letter] for letter in letters)

    def spread(self, make, letters: str) -> torch.Tensor:
        """A tensor of this shape from ``make(shape)``. Dimensions of absurd sizes are expanded from one element."""
        shape = self.shape(letters)
        held = tuple(1 if s >= ABSURD else s for s in shape)
        return make(held).to(self.device).expand(shape)

    def normal(self, letters: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Normal numbers in the call's type, or in another."""
        dtype = dtype or self.dtype
        return self.spread(lambda shape: torch.randn(shape, generator=self.generator, dtype=dtype), letters)

    def integers(self, low: int, high: int, letters: str) -> torch.Tensor:
        """Integers from ``low`` to ``high`` - 1."""
        high = max(high, low + 1)
        return self.spread(lambda shape: torch.randint(low, high, shape, generator=self.generator), letters)

    def permutations(self, letters: str) -> torch.Tensor:
        """Permutations along the last dimension."""
        self._doubt_expanded(self.shape(letters)[-1])
        return self.spread(lambda shape: torch.rand(shape, generator=self.generator).argsort(-1), letters)

    def maybe(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The tensor, or None in three of ten cases."""
        return None if self.chance(0.3) else tensor

    def trees(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Parents and an order of them for every sample, ``[B, L]`` each, with the vertices in any order."""
        length = self.size["L"]
        self._doubt_expanded(length)
        kind = self.random.choice(("random", "chain", "star", "binary"))

        def make(shape: tuple[int, ...]) -> torch.Tensor:
            pairs = [self._tree(shape[1], kind) for _ in range(shape[0])]
            return torch.tensor(pairs, dtype=torch.int64).view(shape[0], 2, shape[1])

        held = tuple(1 if s >= ABSURD else s for s in (self.size["B"], length))
        both = make(held).to(self.device)
        return tuple(x.expand(self.size["B"], length) for x in both.unbind(1))

    def _doubt_expanded(self, length: int) -> None:
        # An absurd length is expanded from one element: from one token again and again, which is no permutation and no
        # tree. A CPU refuses it. A GPU's kernels do not look at indices, and what they give cannot be compared.
        if self.device != "cpu" and length >= ABSURD:
            self.comparable = False

    def _tree(self, length: int, kind: str) -> list[list[int]]:
        name = list(range(length))
        self.random.shuffle(name)
        parent = [0] * length
        for v in range(length):
            above = {"random": self.random.randrange(max(v, 1)), "chain": v - 1, "star": 0, "binary": (v - 1) // 2}
            parent[name[v]] = name[max(above[kind], 0)]
        return [parent, name]
