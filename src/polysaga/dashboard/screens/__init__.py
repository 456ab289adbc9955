"""What the pages show, made from facts by pure functions: no HTTP, no database, no clock."""
