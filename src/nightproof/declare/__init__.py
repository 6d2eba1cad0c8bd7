"""What the user writes: services, models, fields, fallbacks, objectives; and what they mean as data.

User code is imported by `declare.folder` alone, and that runs in workers and in the command line's
child processes only: the server process reads the `Description`, never the code.
"""
