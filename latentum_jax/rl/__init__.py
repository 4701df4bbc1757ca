"""Reinforcement by self-reflection (section 3.3, appendix B.1): questions and rewards."""
