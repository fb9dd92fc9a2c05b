"""The network measured: how fast it trains against timm's, through the engine, from the compile cache; that it is JAX's. See each file."""
