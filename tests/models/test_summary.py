"""The layer table against PyTorch's own counter."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cifarlab.models import build_model
from cifarlab.models.summary import count_macs, draw, layer_table


def test_macs_agree_with_pytorchs_own_counter() -> None:
    for name in ("keras4", "ygnet", "lenet5-wide"):
        network = build_model(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, 32, 32))
        assert count_macs(network) == counter.get_total_flops() // 2


def test_summary_draws_every_weight() -> None:
    rows = layer_table(build_model("lenet5-3x3"))
    text = draw("lenet5-3x3", rows)
    assert "71,919 trainable parameters" in text
    assert "Conv2d 3x3" in text and "13 x 13 x 13" in text and "78.3%" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()


def test_summary_takes_layers_of_other_kinds() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Conv1d(3, 4, 5)
            self.memory = nn.GRU(4, 6, batch_first=True)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = self.memory(self.line(images.flatten(2)).transpose(1, 2))[0]
            return values[:, -1]

    rows = layer_table(Other())
    assert [row.operation for row in rows] == ["Conv1d 5", "GRU"]
    assert rows[1].output_shape == (1020, 6)
