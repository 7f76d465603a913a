"""The commands: fit, validate and test by Lightning's command line; each other one is a function here, or of the rooms.

A command is a function of the library; the command line reads its settings, and tells mistakes in one line.
"""
