"""Recognise statements that may not run on a replica, before they are sent."""
