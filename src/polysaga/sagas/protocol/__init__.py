"""The rules of a saga: states, decisions, and what the journal's rows say. Pure."""
