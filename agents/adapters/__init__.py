"""What must be written for a value to take effect in somebody else's learner, and where it is read back."""
