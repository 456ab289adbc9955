"""What may not run on a replica: statements recognised before they are sent."""
