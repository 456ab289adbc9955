"""The journal: one SQL table; its rows alone decide which process may drive a saga."""
