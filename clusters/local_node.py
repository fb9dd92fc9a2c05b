"""Runs Ray's command line such that a node stays on 127.0.0.1: `python -P local_node.py start --head ...`.

Ray turns 127.0.0.1 into the machine's outward address, so that other hosts can reach it, and then listens
on every interface. A cluster that is one machine wants neither. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 makes
Ray keep loopback (its rule for laptops), but then `ray start --address` refuses a second node: so the rule
is set for the node's children only, and the translation is switched off in this process. Checked with Ray
2.60: every socket is on 127.0.0.1.

Started by clusters.local as a program; importing it does nothing.
"""

from __future__ import annotations

import os

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def main() -> None:
    """Ray's CLI with the arguments of this process."""
    from ray._private import services

    services.resolve_ip_for_localhost = lambda host: host
    os.environ.update(LOOPBACK)
    from ray.scripts.scripts import main as ray_main

    ray_main()


if __name__ == "__main__":
    main()
