"""What training imports on its way; the fork server alone imports this module, last, once for all that it forks."""

from __future__ import annotations

import gc

import torch

torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # torch's first optimizer brings its compiler: 800 modules
gc.freeze()  # a collection in a forked process would write to, and so copy, the pages that all share
