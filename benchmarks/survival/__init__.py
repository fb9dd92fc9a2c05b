"""What surviving costs and how fast it is, against peers."""
