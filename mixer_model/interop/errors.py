"""The one error of weights in files."""

from __future__ import annotations


class WeightsError(ValueError):
    """A state or file that is not the weights of the Mixer it should be. The message names the parameters."""
