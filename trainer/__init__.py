"""Training, apart from the server: nothing here is imported by it, and nothing of it is imported here."""
