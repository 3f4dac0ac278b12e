"""Instruments: the clock, the compiled program, the profiler."""
