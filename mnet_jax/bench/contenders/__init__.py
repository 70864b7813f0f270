"""What contenders run, a file for each library.

A file imports its library at its top, since the process of a contender imports it after the allocator is set. Its
functions return {case: run}.
"""
