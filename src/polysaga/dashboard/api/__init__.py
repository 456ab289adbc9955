"""The pages' facts and orders for programs, as JSON below `/api`."""
