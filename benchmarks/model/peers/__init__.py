"""What the network is compared with, each in an environment of its own (peers.txt). Nothing here imports mixer."""
