"""The rules of a saga: states, decisions and the contents of the journal's rows; pure functions and data."""
