"""Heads for other tasks than classification: modules that take feature maps of a network."""
