"""A domain from start to end: the recipe, the object that all front ends use, its parts."""
