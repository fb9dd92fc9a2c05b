"""From the bytes of one image to the pixels a model is given: decoded, cropped, changed by the recipe."""
