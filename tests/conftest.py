"""Two cores: one thread per worker keeps results repeatable and the suite fast."""

import torch

torch.set_num_threads(1)
