"""Tests; packages.py fetches the real guests that they boot."""
