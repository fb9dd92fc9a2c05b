"""What a run is and how it lives: spec, log, supervisor, checkpoints, ledger, commands.

`orchestrator` stands on `mixer_model`, `data_pipeline` and `clusters`; none of them imports it. What runs on a worker lies in
`orchestrator.training`, and meets the rest only in the bucket. Importing this package imports neither torch nor ray.
"""
