"""Decodes units on real models, compares them with their baselines, times and traces them. Needs torch."""
