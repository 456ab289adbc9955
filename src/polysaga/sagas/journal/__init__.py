"""The journal: one SQL table whose rows are the only truth about who may drive a saga."""
