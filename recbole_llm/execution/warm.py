"""Load ahead what training would import later; only the fork server imports this module, after all others."""

from __future__ import annotations

import gc

import torch

torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimizer loads torch's compiler: 800 modules
gc.freeze()  # garbage collection in a fork would write to the shared pages, and so copy them
