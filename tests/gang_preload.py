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

    from orchestrator.training import contact, worker

    worker.preload()
    torch.set_num_threads(1)
    contact.EVERY_S = 0.1  # not once a second: a test waits for what ranks tell, and for what they are told
