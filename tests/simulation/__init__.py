"""Whole nights on a virtual clock, in a world that a seed decides, with every fault at
hand: what no scripted test would think of."""
