"""How fast a Mixer trains: against timm's in one run, through the engine, and from the compile cache. See each file."""
