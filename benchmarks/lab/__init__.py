"""Counts instead of times: a lab whose clock is the number of executed instructions."""
