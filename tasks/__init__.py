"""How a clip is made, and by whom: the engine, its lanes, and the providers."""
