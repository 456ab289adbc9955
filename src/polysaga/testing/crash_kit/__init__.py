"""The crash kit: it plays every crash that a saga can meet, and judges the result by the databases."""
