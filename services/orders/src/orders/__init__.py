"""A shop's order service over three databases: the reference application of Polysaga."""
