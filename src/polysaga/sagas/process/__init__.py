"""What one process runs: sagas, the worker's rounds, starts in transactions of the program's own."""
