"""One saga in the hands of its owner, from its claim to its rest."""
