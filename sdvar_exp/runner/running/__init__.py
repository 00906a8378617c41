"""Runs a plan: which units are left, which engine decodes them, what fails, how it is stopped and shown. No torch."""
