"""Measures, one a file; what is here is registered by being here."""
