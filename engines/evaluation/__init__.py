"""Evaluation of a served model: queries with known answers, their scoring, and the figures that sum them up."""
