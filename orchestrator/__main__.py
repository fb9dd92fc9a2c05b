"""`python -m orchestrator` is `mixer`."""

from orchestrator.cli import main

main()
