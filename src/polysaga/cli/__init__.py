"""The command `polysaga`: one module for each command, and what they share."""
