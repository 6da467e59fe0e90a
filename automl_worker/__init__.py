"""Studies: the coordinator that searches and weighs evidence, and the trainers that run its trials."""
