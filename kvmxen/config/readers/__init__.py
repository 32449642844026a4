"""Configurations in the forms that others define; each gives a Config, and back."""
