"""How fast: side by side, in one run, on real servers at their safe settings."""
