"""The crash kit: every crash that a saga can meet, played, and judged by what the databases hold."""
