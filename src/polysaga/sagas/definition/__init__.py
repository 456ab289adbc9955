"""Sagas as data: what programs declare, checked before anything runs. Pure."""
