"""Penalties put on models that exist, kept through saving and rebuilding, and the mistakes a model can have with them."""
