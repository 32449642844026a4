"""Other people's ways in: each on Domain and the control socket alone."""
