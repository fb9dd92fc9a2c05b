"""`python -m benchmarks.model` is `python -m benchmarks.model.step`."""

from benchmarks.model.step import main

main()
