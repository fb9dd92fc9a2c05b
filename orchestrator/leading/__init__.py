"""Leading a run: what one driver observes, decides and orders, attempt after attempt. Knows no Ray and no torch."""
