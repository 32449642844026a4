"""Shared rings: index arithmetic and barriers between a guest and its backends."""
