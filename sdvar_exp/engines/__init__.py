"""Engines: how the units of a study are run. In this process, in a pool of workers, as an array of Slurm jobs.

Each is a module with `make(settings)`, see `sdvar_exp.runner.running.protocol.Engine`. Nothing here imports torch: that is the
affair of the backend, in the process that decodes.
"""
