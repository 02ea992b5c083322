"""A network of one's own, and its preprocessing."""

from __future__ import annotations

import torchvision
from torch import Tensor, nn


class Network(nn.Module):
    """The user's own: convolutions, an average, a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.trunk(x).mean((2, 3)))
        return output


TRANSFORM = torchvision.transforms.Compose(
    [
        torchvision.transforms.Resize((32, 48)),
        torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize((0.5,) * 3, (0.5,) * 3),
    ]
)
