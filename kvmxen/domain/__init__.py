"""A domain from its birth to its end: the recipe, the object that all front ends use, its parts."""
