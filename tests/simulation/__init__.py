"""Whole nights on a virtual clock, in a world drawn from a seed, with every fault: they
find cases that no scripted test covers."""
