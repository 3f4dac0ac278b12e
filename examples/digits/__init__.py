"""A small recurrent RNN-T that learns to write down strings of spoken digits.

Run it with `python -m examples.digits`; `examples.digits.train.run` is the same as a function.
"""
