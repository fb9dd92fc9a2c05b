"""How fast Mixer-H/14 trains on one GPU, against timm and against what the card can do: `python -m benchmarks.gpu`.

    ceiling: matrix products alone -> rows: one training step each -> best together -> table, JSON after every row

Needs torch, numpy and rich, and this repository on the path; timm's rows need timm, DeepSpeed's need it. `--tiny` goes the same way on the
CPU with a network of two small blocks: it says nothing about speed, only that the command works.
"""
