"""The catalogue of models and routes: prices, limits and options, each with its source."""
