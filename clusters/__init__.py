"""Where machines come from: this machine, a Ray address; later Slurm, Kubernetes, clouds.

    object_store   a real S3 server on loopback, for the demo and the tests
    local          a Ray cluster on this machine: up, down, state
    jobs           Ray Jobs: submit, status, logs, stop
    notices        what says that a node will go: clouds (metadata, announcements), files, `mixer notice`
    node           a raylet that passes on its SIGTERM as a notice, and has its grace
    capacity       how many workers the living nodes can hold
    processes      what we start, we can find again and end; nothing else

Knows ray and no other part of this project. Importing it imports neither ray nor torch.
"""
