"""What the server behind a gang loads once, so that a rank starts in a tenth of a second. Starts no threads."""

import os
import warnings

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepspeed  # noqa: F401
    import torch
    import torch._inductor
    import torch._inductor.compile_fx

    torch.set_num_threads(1)
