"""What training imports on its way; the fork server alone imports this module, once for all that it forks."""

from __future__ import annotations

import torch

torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # torch's first optimizer brings its compiler: 800 modules
