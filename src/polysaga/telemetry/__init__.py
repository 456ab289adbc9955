"""What listens to events: the log."""
