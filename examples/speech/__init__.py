"""A recogniser of sentences: a FastConformer transducer from data to text with times.

`python -m examples.speech train` trains one; README.md beside this file says how to put one's own
recordings in.
"""
