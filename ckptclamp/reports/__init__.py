"""Audit and apply results as terminal text, JSON and the formats of CI systems.

`reports` computes nothing about weights: it shows what `ckptclamp.auditing.results` holds.
"""
