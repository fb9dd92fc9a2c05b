"""Weights in and out: what a run begins with, what somebody brings, and one run's as an ordinary network."""
