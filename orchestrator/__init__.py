"""What a run is and how it lives: spec, log, supervisor, checkpoints, ledger, commands.

    commands/   what a user types
    leading/    the driver: supervisor and policy        on_ray/    Ray, and Ray only
    training/   what runs on a worker                    near/      state kept in the memory of nodes
    accounts/   what is known of a run, told from its log and events
    pages/      what people look at                      weights/   weights in and out

The files beside these rooms are what they share: the spec, the run's place in a bucket, its log, its checkpoints.

`orchestrator` stands on `mixer_model`, `data_pipeline` and `clusters`; none of them imports it. What runs on a worker lies in
`orchestrator.training`, and meets the rest only in the bucket. Importing this package imports neither torch nor ray.
"""
