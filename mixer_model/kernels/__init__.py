"""Parts of a block that move more bytes than they compute, each in one pass over memory on a GPU.

    ops.norm_transpose, ops.bias_gelu -> on CUDA a Triton kernel, elsewhere the same formula in torch

`reference` has the formulas, forward and backward; `on_cuda` the kernels; `ops` names both as operations that
autograd and the compiler know. Only the benchmark on a GPU uses them yet.
"""
