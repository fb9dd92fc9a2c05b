"""Attempts on a Ray cluster: who places ranks, starts them, watches them and tells the driver. Nothing outside knows how."""
