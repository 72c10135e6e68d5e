"""Measurements of running servers. Everything here talks HTTP to them, and imports none of their code."""
