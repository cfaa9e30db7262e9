"""The catalogue of models and routes: prices, limits and options, each with its source.

A model is a set of weights that rows name; a route is a model at one provider. `routes`
declares each fact once, with its default and the rule for its value. `models.toml` holds
the values, each with its source and date. `loader` reads that file, lays the user's own
tables from nightreel.toml over it, and checks the result: an unknown fact, a missing one
or a wrong value raises `CatalogueError` before any clip is bought. A route inherits from
its model each fact that it does not state itself. Code asks a route whether it can make a
job (`Route.complaint`), at which price and with which aspect ratio.
"""

from manifests.catalogue.loader import Catalogue, CatalogueError, load, shipped
from manifests.catalogue.routes import Model, Route, Sampling

__all__ = [
    "Catalogue",
    "CatalogueError",
    "Model",
    "Route",
    "Sampling",
    "load",
    "shipped",
]
