"""edgeattn."""
